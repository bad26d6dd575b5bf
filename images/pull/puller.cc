#include "images/pull/puller.h"

#include <spdlog/spdlog.h>

#include <thread>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "images/document/image_config.h"
#include "images/pull/resolve.h"
#include "images/registry/secret.h"
#include "runtime/sys/errno.h"
#include "runtime/sys/thread.h"

namespace davit::images {
namespace {

// What the kubelet recognises in a message (cri-api, pkg/errors).
constexpr char kRegistryUnavailable[] = "RegistryUnavailable";

absl::Status ForCaller(const absl::Status& status, const std::string& reference) {
  const std::string message = absl::StrCat("pull ", reference, ": ", status.message());
  if (absl::IsUnavailable(status)) {
    return absl::UnavailableError(absl::StrCat(kRegistryUnavailable, ": ", message));
  }
  return absl::Status(status.code(), message);
}

// Failures that say something about the credentials of the one who asked, not about the image.
bool IsAboutCaller(const absl::Status& status) {
  return absl::IsUnauthenticated(status) || absl::IsPermissionDenied(status) ||
         absl::IsNotFound(status) || absl::IsCancelled(status);
}

}  // namespace

// One call of Pull: calls back once, whatever comes first.
class Puller::Call {
 public:
  Call(PullRequest request, ImageService::PullCallback callback)
      : request_(std::move(request)), callback_(std::move(callback)) {}

  const PullRequest& request() const { return request_; }

  // True for the one that did it.
  bool Finish(absl::StatusOr<std::string> result) {
    ImageService::PullCallback callback;
    {
      sys::MutexLock lock(&mutex_);
      callback.swap(callback_);
    }
    if (callback == nullptr) return false;
    callback(std::move(result));
    return true;
  }
  bool finished() {
    sys::MutexLock lock(&mutex_);
    return callback_ == nullptr;
  }

  // Only the thread that works on the call uses these.
  int rounds = 0;

  // The job that the call waits for, for its ticket.
  void SetJob(std::weak_ptr<Job> job) {
    sys::MutexLock lock(&mutex_);
    job_ = std::move(job);
  }
  std::shared_ptr<Job> job() {
    sys::MutexLock lock(&mutex_);
    return job_.lock();
  }

 private:
  const PullRequest request_;
  sys::Mutex mutex_;
  ImageService::PullCallback callback_ ABSL_GUARDED_BY(mutex_);
  std::weak_ptr<Job> job_ ABSL_GUARDED_BY(mutex_);
};

// A call that has shown that it may have the image, with what it brought.
struct Puller::Waiter {
  std::shared_ptr<Call> call;
  Reference reference;
  std::shared_ptr<RepositoryClient> client;
  std::shared_ptr<const ResolvedImage> resolved;
  bool finished = false;  // the image was there

  std::vector<std::string> Names() const { return resolved->NamesFor(reference); }
};

// One pull and those who wait for it.
class Puller::Job {
 public:
  Job(std::string key, absl::Duration grace, const CancelToken* stopping)
      : key_(std::move(key)), grace_(grace), cancel_(stopping) {}

  const std::string& key() const { return key_; }
  const CancelToken& cancel() const { return cancel_; }

  // False if the job has ended: start another.
  bool Add(Waiter waiter) {
    sys::MutexLock lock(&mutex_);
    if (ended_) return false;
    waiters_.push_back(std::move(waiter));
    Reconsider();
    return true;
  }
  // Somebody stopped waiting.
  void OnCallCancelled() {
    sys::MutexLock lock(&mutex_);
    Reconsider();
  }
  std::vector<Waiter> End() {
    sys::MutexLock lock(&mutex_);
    ended_ = true;
    return std::move(waiters_);
  }
  Waiter first() {
    sys::MutexLock lock(&mutex_);
    return waiters_.front();
  }

 private:
  void Reconsider() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    for (const Waiter& waiter : waiters_) {
      if (!waiter.call->finished()) {
        cancel_.Clear();
        return;
      }
    }
    cancel_.CancelAt(absl::Now() + grace_);
  }

  const std::string key_;
  const absl::Duration grace_;
  CancelToken cancel_;
  sys::Mutex mutex_;
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<Waiter> waiters_ ABSL_GUARDED_BY(mutex_);
};

class Puller::Ticket : public PullTicket {
 public:
  explicit Ticket(std::shared_ptr<Call> call) : call_(std::move(call)) {}
  void Cancel() override {
    if (!call_->Finish(absl::CancelledError("the caller no longer waits for the pull"))) return;
    if (const auto job = call_->job()) job->OnCallCancelled();
  }

 private:
  const std::shared_ptr<Call> call_;
};

Puller::Puller(ImageStore* store, PullerOptions options,
               std::map<std::string, RegistryOptions> registries)
    : store_(store),
      options_(std::move(options)),
      settings_(std::make_shared<const HostSettings>(std::move(registries))) {
  context_.http = options_.http;
  context_.retry = options_.retry;
}

Puller::~Puller() {
  stopping_.CancelForever();
  sys::MutexLock lock(&mutex_);
  while (threads_ > 0) threads_gone_.Wait(&mutex_);
}

void Puller::StartCall(const std::shared_ptr<Call>& call) {
  {
    sys::MutexLock lock(&mutex_);
    ++threads_;
  }
  const auto one_less = [this] {
    sys::MutexLock lock(&mutex_);
    if (--threads_ == 0) threads_gone_.SignalAll();
  };
  auto thread = sys::StartThread([this, call, one_less] {
    RunCall(call);
    one_less();
  });
  if (thread.ok()) return thread->detach();
  call->Finish(ForCaller(thread.status(), call->request().reference));
  one_less();
}

std::shared_ptr<const HostSettings> Puller::settings() {
  sys::MutexLock lock(&mutex_);
  return settings_;
}

void Puller::SetRegistries(std::map<std::string, RegistryOptions> registries) {
  auto settings = std::make_shared<const HostSettings>(std::move(registries));
  sys::MutexLock lock(&mutex_);
  settings_ = std::move(settings);
}

std::unique_ptr<PullTicket> Puller::Pull(PullRequest request, ImageService::PullCallback callback) {
  auto call = std::make_shared<Call>(std::move(request), std::move(callback));
  StartCall(call);
  return std::make_unique<Ticket>(std::move(call));
}

void Puller::RunCall(const std::shared_ptr<Call>& call) {
  const absl::Status status = Resolve(call);
  if (!status.ok()) call->Finish(ForCaller(status, call->request().reference));
}

const Puller::ResolveOperation& Puller::ResolveSteps() {
  static const ResolveOperation steps(
      "resolve image", {{"parse its reference", &Puller::ParseRequest, sys::StepKind::kRequest},
                        {"ask its registry", &Puller::AskRegistry, sys::StepKind::kRequest},
                        {"look into the store", &Puller::LookInStore}});
  return steps;
}

sys::OperationSteps Puller::Steps() { return ResolveSteps().Names(); }

absl::Status Puller::ParseRequest(Waiter* waiter) {
  const PullRequest& request = waiter->call->request();
  DAVIT_ASSIGN_OR_RETURN(waiter->reference, ParseReference(request.reference));
  DAVIT_ASSIGN_OR_RETURN(
      waiter->client, RepositoryClient::Create(&context_, settings(), waiter->reference,
                                               SecretFor(request.credentials, waiter->reference)));
  return absl::OkStatus();
}

absl::Status Puller::AskRegistry(Waiter* waiter) {
  DAVIT_ASSIGN_OR_RETURN(ResolvedImage resolved,
                         ResolveImage(*waiter->client, options_.pull.host, stopping_));
  waiter->resolved = std::make_shared<const ResolvedImage>(std::move(resolved));
  return absl::OkStatus();
}

absl::Status Puller::LookInStore(Waiter* waiter) {
  DAVIT_ASSIGN_OR_RETURN(waiter->finished, FinishFromStore(*waiter));
  return absl::OkStatus();
}

absl::Status Puller::Resolve(const std::shared_ptr<Call>& call) {
  ++call->rounds;
  Waiter waiter;
  waiter.call = call;
  DAVIT_RETURN_IF_ERROR(ResolveSteps().Run(this, options_.pull.faults, &waiter));
  if (waiter.finished) return absl::OkStatus();

  const std::string key = waiter.reference.WithDigest(waiter.resolved->manifest_digest);
  std::shared_ptr<Job> job;
  for (bool is_new = false;;) {
    {
      sys::MutexLock lock(&mutex_);
      std::shared_ptr<Job>& slot = jobs_[key];
      if (slot == nullptr) {
        slot = std::make_shared<Job>(key, options_.grace, &stopping_);
        is_new = true;
      }
      job = slot;
    }
    call->SetJob(job);
    if (job->Add(waiter)) {
      if (is_new) RunJob(job);
      return absl::OkStatus();
    }
    sys::MutexLock lock(&mutex_);
    const auto it = jobs_.find(key);
    if (it != jobs_.end() && it->second == job) jobs_.erase(it);
  }
}

absl::StatusOr<bool> Puller::FinishFromStore(const Waiter& waiter) {
  const ResolvedImage& resolved = *waiter.resolved;
  const std::string id = resolved.manifest.IsImage() ? resolved.manifest.config.digest.ToString()
                                                     : resolved.manifest_digest.ToString();
  if (!store_->HasManifest(id, resolved.manifest_digest.ToString())) {
    // Known by its config alone: that this registry, too, has the image is for a job to find out.
    return false;
  }
  std::vector<std::unique_ptr<OciLayout::Hold>> holds;
  for (const PulledDocument& document : resolved.documents) {
    if (store_->HasManifest(id, document.blob.digest)) continue;
    DAVIT_ASSIGN_OR_RETURN(auto hold, store_->blobs().Put(document.digest, document.bytes));
    holds.push_back(std::move(hold));
  }
  if (!holds.empty()) DAVIT_RETURN_IF_ERROR(store_->Sync());
  // False: it has been removed meanwhile.
  DAVIT_ASSIGN_OR_RETURN(const bool there, store_->AddNames(id, waiter.Names(), resolved.Blobs()));
  if (!there) return false;
  waiter.call->Finish(id);
  return true;
}

void Puller::RunJob(const std::shared_ptr<Job>& job) {
  const absl::Time start = absl::Now();
  const Waiter first = job->first();
  absl::StatusOr<std::string> result;
  {
    PullJob pull(store_, &flights_, &options_.pull, first.client.get(), first.resolved.get(),
                 &job->cancel());
    result = pull.Run(first.Names());
  }
  {
    sys::MutexLock lock(&mutex_);
    const auto it = jobs_.find(job->key());
    if (it != jobs_.end() && it->second == job) jobs_.erase(it);
  }
  if (result.ok()) {
    spdlog::info("pulled {} as {} in {}", job->key(), *result,
                 absl::FormatDuration(absl::Trunc(absl::Now() - start, absl::Milliseconds(1))));
  } else {
    spdlog::warn("pull of {} failed: {}", job->key(), std::string(result.status().message()));
  }
  bool is_first = true;
  for (const Waiter& waiter : job->End()) {
    FinishWaiter(waiter, result, is_first);
    is_first = false;
  }
}

void Puller::FinishWaiter(const Waiter& waiter, const absl::StatusOr<std::string>& result,
                          bool is_first) {
  const std::string& text = waiter.call->request().reference;
  if (!result.ok()) {
    const bool others_trouble = !is_first && IsAboutCaller(result.status());
    if (others_trouble && !waiter.call->finished() && waiter.call->rounds < 3 &&
        !stopping_.cancelled()) {
      StartCall(waiter.call);
      return;
    }
    waiter.call->Finish(ForCaller(result.status(), text));
    return;
  }
  if (is_first) {
    waiter.call->Finish(*result);
    return;
  }
  // The others may have come by another tag or another index.
  const absl::StatusOr<bool> finished = FinishFromStore(waiter);
  if (!finished.ok()) {
    waiter.call->Finish(ForCaller(finished.status(), text));
  } else if (!*finished) {
    StartCall(waiter.call);
  }
}

}  // namespace davit::images

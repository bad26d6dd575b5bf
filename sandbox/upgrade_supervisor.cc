#include <algorithm>
#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "runtime/plan/plan.h"
#include "runtime/sys/errno.h"
#include "runtime/sys/version.h"
#include "sandbox/manager_impl.h"
#include "sandbox/protocol_version.h"

// How supervisors get the davit-pod of this davitd (proto/supervisor.proto, Upgrade).
namespace davit::sandbox {
namespace {

using supervisor::v1::HelloReply;

// How long a supervisor may look for a moment in which nothing is under way. The pod's gate is
// closed meanwhile.
constexpr absl::Duration kPatience = absl::Seconds(2);
// That, and for the new program to check what it takes over, on a machine in trouble.
constexpr absl::Duration kTimeout = absl::Seconds(20);
constexpr int kAtATime = 4;
constexpr absl::Duration kFirstRetry = absl::Seconds(5);
constexpr absl::Duration kLongestRetry = absl::Minutes(5);

std::string Named(const std::string& version) {
  return absl::StrCat("davit-pod ", version.empty() ? "of an unknown version" : version);
}

supervisor::v1::ToSupervisor UpgradeRequest(const std::string& program_id) {
  supervisor::v1::ToSupervisor request;
  request.mutable_upgrade()->set_program_id(program_id);
  request.mutable_upgrade()->set_patience_ms(
      static_cast<uint32_t>(absl::ToInt64Milliseconds(kPatience)));
  return request;
}

}  // namespace

absl::Status ManagerImpl::NoteBuild(const PodPtr& pod, const HelloReply& hello) {
  pod->set_build({hello.program_id(), hello.version(), hello.plan_version()});
  // Those of before version 2 do not say which.
  const uint32_t oldest = std::max(hello.oldest_protocol_version(), 1u);
  if (hello.protocol_version() < kOldestProtocolVersion || oldest > kProtocolVersion) {
    return absl::FailedPreconditionError(absl::StrCat(
        "davitd ", sys::Version(), " speaks the versions ", kOldestProtocolVersion, " to ",
        kProtocolVersion, " of the protocol with supervisors, that of pod ", pod->id(), " (",
        Named(hello.version()), ") ", oldest, " to ", hello.protocol_version()));
  }
  if (upgrade_supervisors_ && hello.program_id() != launcher_->program_id()) {
    QueueUpgrade(pod, absl::ZeroDuration());
  }
  return absl::OkStatus();
}

void ManagerImpl::SetUpgradeSupervisors(bool upgrade) {
  if (upgrade_supervisors_.exchange(upgrade) || !upgrade) return;
  for (const PodPtr& pod : registry_.Pods()) {
    const auto client = pod->client();
    if (client != nullptr && pod->build().program_id != launcher_->program_id()) {
      QueueUpgrade(pod, absl::ZeroDuration());
    }
  }
}

void ManagerImpl::UpgradeForeign(const PodPtr& pod, const std::shared_ptr<SupervisorClient>& client,
                                 const absl::Status& why, absl::Duration timeout,
                                 std::function<void(absl::Status)> done) {
  const auto fail = [client, why, done](absl::string_view reason) {
    client->Close();
    done(absl::FailedPreconditionError(
        absl::StrCat(why.message(), "; upgrading it failed: ", reason)));
  };
  // Ours, and yet it speaks another protocol: that will not change.
  if (pod->build().program_id == launcher_->program_id()) return fail("it is up to date");
  const int program[] = {launcher_->program()};
  client->Call(UpgradeRequest(launcher_->program_id()), program, timeout,
               [=, this](absl::StatusOr<SupervisorClient::Answer> answer) {
                 if (!answer.ok()) return fail(answer.status().message());
                 SayHello(pod, client, "", timeout, done);
               });
}

void ManagerImpl::QueueUpgrade(const PodPtr& pod, absl::Duration delay) {
  loop_->After(delay, [this, weak = std::weak_ptr<Pod>(pod), delay] {
    {
      sys::MutexLock lock(&mutex_);
      upgrades_.emplace_back(weak, std::clamp(2 * delay, kFirstRetry, kLongestRetry));
    }
    RunQueuedUpgrades();
  });
}

void ManagerImpl::RunQueuedUpgrades() {
  PodPtr pod;
  absl::Duration retry;
  {
    sys::MutexLock lock(&mutex_);
    while (pod == nullptr && !upgrades_.empty() && upgrades_running_ < kAtATime) {
      pod = upgrades_.front().first.lock();
      retry = upgrades_.front().second;
      upgrades_.pop_front();
    }
    if (pod == nullptr || shutting_down_) return;
    ++upgrades_running_;
  }
  pod->gate().Enter(OperationGate::Mode::kExclusive,
                    [this, pod, retry](std::shared_ptr<OperationGate::Pass> pass) mutable {
                      workers_.Run([this, pod, retry, pass] {
                        if (shutting_down_) return;  // the next daemon's business
                        const auto client = pod->client();
                        const absl::Status status = UpgradeSupervisor(pod, client.get());
                        // A lost connection comes back, or not; then this begins again.
                        const bool lost = client == nullptr || !client->connected();
                        if (!status.ok() && !lost) {
                          Report(Severity::kWarning, std::string(status.message()));
                        }
                        if (absl::IsUnavailable(status) && !lost) QueueUpgrade(pod, retry);
                        {
                          sys::MutexLock lock(&mutex_);
                          --upgrades_running_;
                        }
                        RunQueuedUpgrades();
                      });
                    });
  RunQueuedUpgrades();
}

absl::Status ManagerImpl::UpgradeSupervisor(const PodPtr& pod, SupervisorClient* client) {
  if (pod->phase() == PodPhase::kGone) return absl::OkStatus();
  const Pod::Build old = pod->build();
  if (old.program_id == launcher_->program_id()) return absl::OkStatus();
  const std::string what = absl::StrCat("upgrade the supervisor of pod ", pod->id(), " from ",
                                        Named(old.version), " to ", Named(sys::Version()));
  if (client == nullptr || !client->connected()) {
    return absl::UnavailableError(absl::StrCat(what, ": it cannot be reached"));
  }
  const int program[] = {launcher_->program()};
  auto answer = client->CallAndWait(UpgradeRequest(launcher_->program_id()), program, kTimeout);
  if (absl::IsUnimplemented(answer.status())) {
    return absl::FailedPreconditionError(
        absl::StrCat(what, ": it is too old to be upgraded; its pod has to be made anew"));
  }
  if (!answer.ok()) return sys::Annotate(answer.status(), what);
  const HelloReply& hello = answer->reply.upgrade().hello();
  pod->set_build({hello.program_id(), hello.version(), hello.plan_version()});
  Report(Severity::kInfo, absl::StrCat(what, ": done"));
  return absl::OkStatus();
}

bool ManagerImpl::ExecutesOurPlans(const Pod& pod) const {
  const uint32_t version = pod.build().plan_version;
  return version == 0 || version == runtime::plan::kPlanVersion;
}

absl::Status ManagerImpl::EnsureOurPlans(const PodPtr& pod) {
  if (ExecutesOurPlans(*pod)) return absl::OkStatus();
  const OperationGate::Pass pass = pod->gate().EnterBlocking(OperationGate::Mode::kExclusive);
  const Pod::Build build = pod->build();
  const auto client = pod->client();
  const absl::Status upgraded = UpgradeSupervisor(pod, client.get());
  if (upgraded.ok() && ExecutesOurPlans(*pod)) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat(
      "davitd ", sys::Version(), " makes plans of version ", runtime::plan::kPlanVersion,
      ", the supervisor of pod ", pod->id(), " (", Named(build.version), ") executes version ",
      build.plan_version, upgraded.ok() ? "" : "; ", upgraded.message()));
}

}  // namespace davit::sandbox

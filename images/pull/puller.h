#ifndef DAVIT_IMAGES_PULL_PULLER_H_
#define DAVIT_IMAGES_PULL_PULLER_H_

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "images/cancel.h"
#include "images/image_service.h"
#include "images/pull/layer_flights.h"
#include "images/pull/pull_job.h"
#include "images/reference.h"
#include "images/registry/host_settings.h"
#include "images/registry/repository_client.h"
#include "images/store/image_store.h"
#include "runtime/sys/mutex.h"

namespace davit::images {

struct PullerOptions {
  PullOptions pull;
  HttpClientOptions http;
  RetryPolicy retry;
  // How long a pull that nobody waits for any more goes on, for the caller to come back: a
  // restarted kubelet does within a minute.
  absl::Duration grace = absl::Minutes(2);
};

// All pulls of a daemon. Each call makes its own authorised manifest request with its own
// credentials; calls that arrive at the same manifest of the same repository then share one job,
// and jobs that need the same layer share that. A job is detached from its callers. Thread-safe;
// the destructor ends all pulls and waits for their threads.
class Puller {
 public:
  Puller(ImageStore* store, PullerOptions options,
         std::map<std::string, RegistryOptions> registries);
  ~Puller();

  // As ImageService::Pull.
  std::unique_ptr<PullTicket> Pull(PullRequest request, ImageService::PullCallback callback);

  void SetRegistries(std::map<std::string, RegistryOptions> registries);

  // The steps of a call before it waits for a job.
  static sys::OperationSteps Steps();

 private:
  class Call;
  class Ticket;
  struct Waiter;
  class Job;
  using ResolveOperation = sys::Operation<Puller, Waiter*>;

  static const ResolveOperation& ResolveSteps();
  absl::Status ParseRequest(Waiter* waiter);
  absl::Status AskRegistry(Waiter* waiter);
  absl::Status LookInStore(Waiter* waiter);

  // On a thread of its own; the call fails if there can be none.
  void StartCall(const std::shared_ptr<Call>& call);
  void RunCall(const std::shared_ptr<Call>& call);
  // The work up to the point where the call waits for a job; OK when it does, or is finished.
  absl::Status Resolve(const std::shared_ptr<Call>& call);
  // True if the image is there already and has all that `waiter` brings.
  absl::StatusOr<bool> FinishFromStore(const Waiter& waiter);
  void RunJob(const std::shared_ptr<Job>& job);
  void FinishWaiter(const Waiter& waiter, const absl::StatusOr<std::string>& result, bool is_first);
  std::shared_ptr<const HostSettings> settings();

  ImageStore* const store_;
  const PullerOptions options_;
  RegistryContext context_;
  LayerFlights flights_;
  CancelToken stopping_;

  sys::Mutex mutex_;
  sys::CondVar threads_gone_;
  int threads_ ABSL_GUARDED_BY(mutex_) = 0;
  std::shared_ptr<const HostSettings> settings_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, std::shared_ptr<Job>> jobs_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace davit::images

#endif  // DAVIT_IMAGES_PULL_PULLER_H_

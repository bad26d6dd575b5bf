#include <poll.h>
#include <signal.h>

#include <algorithm>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "runtime/sys/spawn.h"
#include "sandbox/manager_impl.h"

// What davitd does about a supervisor that lives and does not answer: nothing, as long as nobody
// waits for it to stop or remove something; then it is given its time, and killed.
namespace davit::sandbox {
namespace {

bool HasEnded(int pidfd) {
  pollfd poll_fd{pidfd, POLLIN, 0};
  return poll(&poll_fd, 1, 0) == 1;
}

}  // namespace

// The timer of one stop; it ends with the object.
class ManagerImpl::StopWatch {
 public:
  StopWatch(IoLoop* loop, const PodPtr& pod) : loop_(loop), pod_(pod) {}
  ~StopWatch() {
    // Another thread may hold it for the moment in which the timer runs: nothing is armed then.
    sys::MutexLock lock(&mutex_);
    if (timer_ != 0) loop_->Cancel(timer_);
  }
  void set_timer(IoLoop::Handle timer) {
    sys::MutexLock lock(&mutex_);
    timer_ = timer;
  }
  PodPtr pod() const { return pod_.lock(); }

 private:
  IoLoop* const loop_;
  const std::weak_ptr<Pod> pod_;
  sys::Mutex mutex_;
  IoLoop::Handle timer_ ABSL_GUARDED_BY(mutex_) = 0;
};

std::shared_ptr<ManagerImpl::StopWatch> ManagerImpl::WatchStop(const PodPtr& pod,
                                                               absl::Duration delay) {
  auto watch = std::make_shared<StopWatch>(loop_.get(), pod);
  ArmStopWatch(watch, delay);
  return watch;
}

void ManagerImpl::ArmStopWatch(const std::shared_ptr<StopWatch>& watch, absl::Duration delay) {
  watch->set_timer(loop_->After(delay, [this, weak = std::weak_ptr<StopWatch>(watch)] {
    const std::shared_ptr<StopWatch> waiting = weak.lock();
    if (waiting == nullptr || shutting_down_) return;
    const PodPtr pod = waiting->pod();
    if (pod == nullptr || pod->phase() == PodPhase::kGone) return;
    ProbeSupervisor(pod);
    // It may stop answering later.
    ArmStopWatch(waiting, 2 * options_.supervisor_patience);
  }));
}

void ManagerImpl::ProbeSupervisor(const PodPtr& pod) {
  if (pod->BeginProbe()) ProbeUntil(pod, absl::Now() + options_.supervisor_patience);
}

void ManagerImpl::ProbeUntil(const PodPtr& pod, absl::Time deadline) {
  const sys::UniqueFd pidfd = pod->pidfd();
  // None: it is lost, or is being ended by whoever has taken it.
  if (shutting_down_ || !pidfd.ok() || HasEnded(pidfd.get())) return pod->EndProbe();
  const auto judge = [this, pod, deadline](absl::Status answered, bool any_answer) {
    if (any_answer) return pod->EndProbe();
    const absl::Duration left = deadline - absl::Now();
    if (left > absl::ZeroDuration()) {
      // Not asked at all, or answered by garbage: that is no proof yet.
      loop_->After(std::min(left, options_.supervisor_patience / 4),
                   [this, pod, deadline] { ProbeUntil(pod, deadline); });
      return;
    }
    const sys::UniqueFd process = pod->pidfd();
    if (process.ok() && !HasEnded(process.get())) {
      Report(Severity::kError,
             absl::StrCat("the supervisor of pod ", pod->id(),
                          " does not answer and is killed: ", answered.message()));
      sys::KillPidfd(process.get(), SIGKILL).IgnoreError();
    }
    pod->EndProbe();
  };
  const absl::Duration timeout = std::max(deadline - absl::Now(), absl::Milliseconds(1));
  const auto client = pod->client();
  if (client == nullptr || !client->connected()) {
    Reach(pod, timeout, [this, pod, judge](absl::Status reached) {
      if (reached.ok()) workers_.Run([this, pod] { DiscardUnfinished(pod); });
      judge(reached, reached.ok());
    });
    return;
  }
  // Any answer will do, so the question is the one that every version has an answer to: none. It is
  // refused, in a reply.
  client->Call(supervisor::v1::ToSupervisor(), {}, timeout,
               [judge](absl::StatusOr<SupervisorClient::Answer> answer) {
                 const bool silent = absl::IsDeadlineExceeded(answer.status()) ||
                                     absl::IsUnavailable(answer.status());
                 judge(answer.status(), !silent);
               });
}

}  // namespace davit::sandbox

#include "sandbox/operation_gate.h"

#include <deque>
#include <utility>
#include <vector>

#include "runtime/sys/mutex.h"
#include "sandbox/notification.h"

namespace davit::sandbox {

struct GateState {
  struct Waiter {
    OperationGate::Mode mode;
    std::function<void(std::shared_ptr<OperationGate::Pass>)> run;
  };

  sys::Mutex mutex;
  int shared ABSL_GUARDED_BY(mutex) = 0;
  bool exclusive ABSL_GUARDED_BY(mutex) = false;
  std::deque<Waiter> waiters ABSL_GUARDED_BY(mutex);

  bool Admit(OperationGate::Mode mode) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    if (exclusive) return false;
    if (mode == OperationGate::Mode::kShared) {
      ++shared;
      return true;
    }
    if (shared > 0) return false;
    exclusive = true;
    return true;
  }
};

OperationGate::OperationGate() : state_(std::make_shared<GateState>()) {}

OperationGate::Pass& OperationGate::Pass::operator=(Pass&& other) noexcept {
  if (this != &other) {
    Release();
    state_ = std::move(other.state_);
    mode_ = other.mode_;
  }
  return *this;
}

void OperationGate::Pass::Release() {
  const std::shared_ptr<GateState> state = std::move(state_);
  state_ = nullptr;
  if (state == nullptr) return;
  std::vector<GateState::Waiter> admitted;
  {
    sys::MutexLock lock(&state->mutex);
    if (mode_ == Mode::kShared) {
      --state->shared;
    } else {
      state->exclusive = false;
    }
    // In order: a shared waiter behind an exclusive one waits with it, or a stream of creations
    // would keep a removal out for ever.
    while (!state->waiters.empty() && state->Admit(state->waiters.front().mode)) {
      admitted.push_back(std::move(state->waiters.front()));
      state->waiters.pop_front();
    }
  }
  for (GateState::Waiter& waiter : admitted) {
    waiter.run(std::shared_ptr<Pass>(new Pass(state, waiter.mode)));
  }
}

void OperationGate::Enter(Mode mode, std::function<void(std::shared_ptr<Pass>)> run) {
  {
    sys::MutexLock lock(&state_->mutex);
    if (!state_->waiters.empty() || !state_->Admit(mode)) {
      state_->waiters.push_back({mode, std::move(run)});
      return;
    }
  }
  run(std::shared_ptr<Pass>(new Pass(state_, mode)));
}

OperationGate::Pass OperationGate::EnterBlocking(Mode mode) {
  Pass result;
  Notification turn;
  Enter(mode, [&](std::shared_ptr<Pass> pass) {
    result = std::move(*pass);
    turn.Notify();
  });
  turn.WaitForNotification();
  return result;
}

}  // namespace davit::sandbox

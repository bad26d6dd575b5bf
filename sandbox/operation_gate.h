#ifndef DAVIT_SANDBOX_OPERATION_GATE_H_
#define DAVIT_SANDBOX_OPERATION_GATE_H_

#include <functional>
#include <memory>
#include <utility>

namespace davit::sandbox {

struct GateState;

// Puts the operations on one pod or container in order, without a thread or a mutex held while one
// runs: an operation that finds the gate closed is called when its turn comes, first come first
// served. Shared operations (creating containers in a pod) run together, exclusive ones (stop,
// remove) alone. Thread-safe.
class OperationGate {
 public:
  enum class Mode { kShared, kExclusive };

  // The right to run; given back on destruction. May outlive the gate and change threads.
  class Pass {
   public:
    Pass() = default;
    Pass(Pass&&) = default;
    Pass& operator=(Pass&& other) noexcept;
    ~Pass() { Release(); }
    void Release();
    bool ok() const { return state_ != nullptr; }

   private:
    friend class OperationGate;
    Pass(std::shared_ptr<GateState> state, Mode mode) : state_(std::move(state)), mode_(mode) {}
    std::shared_ptr<GateState> state_;
    Mode mode_ = Mode::kShared;
  };

  OperationGate();

  // Calls `run` with the pass: at once if the gate is open, else later from the thread that opens
  // it; so `run` hands its work on (IoLoop::Post, Workers::Run) rather than doing it.
  // The pass is shared so that `run` may be copied.
  void Enter(Mode mode, std::function<void(std::shared_ptr<Pass>)> run);

  // Waits for the turn on this thread.
  Pass EnterBlocking(Mode mode);

 private:
  std::shared_ptr<GateState> state_;
};

}  // namespace davit::sandbox

#endif  // DAVIT_SANDBOX_OPERATION_GATE_H_

#ifndef DAVIT_SANDBOX_UNDO_H_
#define DAVIT_SANDBOX_UNDO_H_

#include <functional>
#include <utility>
#include <vector>

namespace davit::sandbox {

// The steps that take back what an operation has done so far: run in reverse order on destruction,
// unless the operation succeeded and dismissed them. Not thread-safe.
class Undo {
 public:
  Undo() = default;
  Undo(const Undo&) = delete;
  Undo& operator=(const Undo&) = delete;
  ~Undo() {
    while (!steps_.empty()) {
      const std::function<void()> step = std::move(steps_.back());
      steps_.pop_back();
      step();
    }
  }

  void Add(std::function<void()> step) { steps_.push_back(std::move(step)); }
  void Dismiss() { steps_.clear(); }

 private:
  std::vector<std::function<void()>> steps_;
};

}  // namespace davit::sandbox

#endif  // DAVIT_SANDBOX_UNDO_H_

#ifndef DAVIT_RUNTIME_SYS_FAULTS_H_
#define DAVIT_RUNTIME_SYS_FAULTS_H_

#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "runtime/sys/mutex.h"

namespace davit::sys {

// What one step of one operation (steps.h) is to suffer, once.
//
// As text, one line of five fields with tabs between them:
//
//   <operation> <step> before|after fail <errno>
//   <operation> <step> before|after kill 0
//   <operation> <step> before|after hang <milliseconds>
//
// "before": instead of the step; "after": the step is done, and what it reports is the failure.
struct FaultOrder {
  enum class Moment { kBefore, kAfter };
  enum class Action {
    kFail,  // an error with that errno
    kKill,  // SIGKILL for the process itself
    kHang,  // the step takes that much longer
  };
  std::string operation;
  std::string step;
  Moment moment = Moment::kBefore;
  Action action = Action::kFail;
  int value = 0;
};

// InvalidArgument for what is not a line as above; a newline at its end may be there.
absl::StatusOr<FaultOrder> ParseFaultOrder(absl::string_view line);
std::string FormatFaultOrder(const FaultOrder& order);

// Fault injection for tests: where steps ask what they have to suffer. In every build, and without
// effect unless a program was given an order. An order holds for one step and then is spent.
// Thread-safe.
class Faults {
 public:
  // Orders come in a file, one at a time; it is looked at before and after each step, and removed
  // by the step that its order is for. A file that is not there orders nothing.
  static Faults FromFile(std::string path) { return Faults(std::move(path), std::nullopt); }
  // One order, and no more.
  static Faults Only(FaultOrder order) { return Faults("", std::move(order)); }

  // Carries out the order if it is for this step.
  absl::Status At(absl::string_view operation, absl::string_view step, FaultOrder::Moment moment);

  // For an operation whose steps are carried out elsewhere: its order, which stays. `Spend` it once
  // it has been handed on.
  std::optional<FaultOrder> For(absl::string_view operation);
  void Spend();

  Faults(Faults&& other) noexcept : file_(other.file_), only_(std::move(other.only_)) {}

 private:
  Faults(std::string file, std::optional<FaultOrder> only)
      : file_(std::move(file)), only_(std::move(only)) {}
  std::optional<FaultOrder> Current() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // False if another has been quicker.
  bool SpendLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const std::string file_;
  Mutex mutex_;
  std::optional<FaultOrder> only_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace davit::sys

#endif  // DAVIT_RUNTIME_SYS_FAULTS_H_

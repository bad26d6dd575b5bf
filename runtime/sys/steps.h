#ifndef DAVIT_RUNTIME_SYS_STEPS_H_
#define DAVIT_RUNTIME_SYS_STEPS_H_

#include <initializer_list>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "runtime/sys/errno.h"
#include "runtime/sys/faults.h"

namespace davit::sys {

// What an error of a step is about.
enum class StepKind {
  // Our own doing. NotFound and AlreadyExists then speak of files of ours, and become Internal: a
  // caller would take them for an answer about the pod, container or image it asked for.
  kWork,
  // The request, or something of the user's: the code passes as it is.
  kRequest,
};

// The names of an operation and its steps.
struct OperationSteps {
  std::string operation;
  std::vector<std::string> steps;
};

// An operation as the ordered list of its steps, each a member function of Owner. It is the only
// way in which the steps are run, so that what is known of one is known of all: its name in errors,
// and that it can be made to fail (faults.h). Undoing is the operation's own (a class Undo, or a
// destructor): what a step has done is taken back when a later one fails. Constant, one for each
// operation.
template <typename Owner, typename... Args>
class Operation {
 public:
  struct Step {
    const char* name;  // what is being done, as in "attach the network"
    absl::Status (Owner::*apply)(Args...);
    StepKind kind = StepKind::kWork;
  };

  Operation(const char* name, std::initializer_list<Step> steps) : name_(name), steps_(steps) {}

  const char* name() const { return name_; }

  // Runs the steps up to the first that fails; its error is "<step's name>: <error>". `faults` may
  // be null.
  absl::Status Run(Owner* owner, Faults* faults, const Args&... args) const {
    for (const Step& step : steps_) {
      absl::Status status = At(faults, step, FaultOrder::Moment::kBefore);
      if (status.ok()) status = (owner->*step.apply)(args...);
      if (status.ok()) status = At(faults, step, FaultOrder::Moment::kAfter);
      if (!status.ok()) return Annotate(ForCaller(status, step.kind), step.name);
    }
    return absl::OkStatus();
  }

  OperationSteps Names() const {
    OperationSteps names;
    names.operation = name_;
    for (const Step& step : steps_) names.steps.push_back(step.name);
    return names;
  }

 private:
  absl::Status At(Faults* faults, const Step& step, FaultOrder::Moment moment) const {
    return faults == nullptr ? absl::OkStatus() : faults->At(name_, step.name, moment);
  }
  static absl::Status ForCaller(const absl::Status& status, StepKind kind) {
    if (kind == StepKind::kRequest) return status;
    if (!absl::IsNotFound(status) && !absl::IsAlreadyExists(status)) return status;
    return absl::InternalError(status.message());
  }

  const char* const name_;
  const std::vector<Step> steps_;
};

}  // namespace davit::sys

#endif  // DAVIT_RUNTIME_SYS_STEPS_H_

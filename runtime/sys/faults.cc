#include "runtime/sys/faults.h"

#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "runtime/sys/errno.h"
#include "runtime/sys/file.h"

namespace davit::sys {
namespace {

constexpr size_t kMaxOrder = 4096;

const char* MomentName(FaultOrder::Moment moment) {
  return moment == FaultOrder::Moment::kBefore ? "before" : "after";
}

const char* ActionName(FaultOrder::Action action) {
  switch (action) {
    case FaultOrder::Action::kFail:
      return "fail";
    case FaultOrder::Action::kKill:
      return "kill";
    case FaultOrder::Action::kHang:
      break;
  }
  return "hang";
}

absl::Status CarryOut(const FaultOrder& order) {
  switch (order.action) {
    case FaultOrder::Action::kFail:
      return ErrnoStatus(order.value, absl::StrCat("a fault was ordered ", MomentName(order.moment),
                                                   " this step"));
    case FaultOrder::Action::kKill:
      kill(getpid(), SIGKILL);
      for (;;) pause();
    case FaultOrder::Action::kHang:
      absl::SleepFor(absl::Milliseconds(order.value));
      break;
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<FaultOrder> ParseFaultOrder(absl::string_view line) {
  absl::ConsumeSuffix(&line, "\n");
  const std::vector<std::string> fields = absl::StrSplit(line, '\t');
  FaultOrder order;
  const bool good = fields.size() == 5 && (fields[2] == "before" || fields[2] == "after") &&
                    (fields[3] == "fail" || fields[3] == "kill" || fields[3] == "hang") &&
                    absl::SimpleAtoi(fields[4], &order.value) && order.value >= 0;
  if (!good) return absl::InvalidArgumentError(absl::StrCat("\"", line, "\" orders no fault"));
  order.operation = fields[0];
  order.step = fields[1];
  order.moment = fields[2] == "before" ? FaultOrder::Moment::kBefore : FaultOrder::Moment::kAfter;
  order.action = fields[3] == "fail"   ? FaultOrder::Action::kFail
                 : fields[3] == "kill" ? FaultOrder::Action::kKill
                                       : FaultOrder::Action::kHang;
  return order;
}

std::string FormatFaultOrder(const FaultOrder& order) {
  return absl::StrCat(order.operation, "\t", order.step, "\t", MomentName(order.moment), "\t",
                      ActionName(order.action), "\t", order.value, "\n");
}

std::optional<FaultOrder> Faults::Current() {
  if (file_.empty()) return only_;
  // Not there, as a rule; and what a test is still writing is renamed into its place.
  const auto text = ReadFileAt(AT_FDCWD, file_, kMaxOrder);
  if (!text.ok()) return std::nullopt;
  auto order = ParseFaultOrder(*text);
  if (!order.ok()) return std::nullopt;
  return *std::move(order);
}

bool Faults::SpendLocked() {
  if (!file_.empty()) return unlink(file_.c_str()) == 0;
  return std::exchange(only_, std::nullopt).has_value();
}

absl::Status Faults::At(absl::string_view operation, absl::string_view step,
                        FaultOrder::Moment moment) {
  std::optional<FaultOrder> order;
  {
    MutexLock lock(&mutex_);
    order = Current();
    if (!order.has_value() || order->operation != operation || order->step != step ||
        order->moment != moment || !SpendLocked()) {
      return absl::OkStatus();
    }
  }
  return CarryOut(*order);
}

std::optional<FaultOrder> Faults::For(absl::string_view operation) {
  MutexLock lock(&mutex_);
  std::optional<FaultOrder> order = Current();
  if (order.has_value() && order->operation != operation) order.reset();
  return order;
}

void Faults::Spend() {
  MutexLock lock(&mutex_);
  SpendLocked();
}

}  // namespace davit::sys

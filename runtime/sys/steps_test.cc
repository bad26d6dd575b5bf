#include "runtime/sys/steps.h"

#include <errno.h>
#include <unistd.h>

#include <fstream>
#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace davit::sys {
namespace {

struct Flow {
  std::vector<int> done;
  absl::Status second = absl::OkStatus();

  absl::Status First(int value) {
    done.push_back(value);
    return absl::OkStatus();
  }
  absl::Status Second(int value) {
    if (second.ok()) done.push_back(value + 1);
    return second;
  }
};

using FlowOperation = Operation<Flow, int>;

const FlowOperation& TheOperation() {
  static const FlowOperation operation(
      "do it", {{"begin", &Flow::First, StepKind::kRequest}, {"go on", &Flow::Second}});
  return operation;
}

class StepsTest : public ::testing::Test {
 protected:
  StepsTest() : path_(::testing::TempDir() + "/order." + std::to_string(getpid())) {}
  ~StepsTest() override { unlink(path_.c_str()); }
  void Order(const std::string& line) { std::ofstream(path_) << line; }
  bool Spent() const { return access(path_.c_str(), F_OK) != 0; }

  const std::string path_;
  Flow flow_;
};

TEST_F(StepsTest, StepsRunInOrderAndAreListed) {
  EXPECT_TRUE(TheOperation().Run(&flow_, nullptr, 7).ok());
  EXPECT_EQ(flow_.done, (std::vector<int>{7, 8}));
  EXPECT_EQ(TheOperation().Names().operation, "do it");
  EXPECT_EQ(TheOperation().Names().steps, (std::vector<std::string>{"begin", "go on"}));
}

TEST_F(StepsTest, AnErrorSaysInWhichStepItWas) {
  flow_.second = absl::UnavailableError("the wire is cut");
  EXPECT_EQ(TheOperation().Run(&flow_, nullptr, 7),
            absl::UnavailableError("go on: the wire is cut"));
}

TEST_F(StepsTest, AFileOfOursThatIsMissingIsNotTheCallersObjectThatIsMissing) {
  flow_.second = absl::NotFoundError("open record");
  EXPECT_EQ(TheOperation().Run(&flow_, nullptr, 7), absl::InternalError("go on: open record"));
  Faults faults = Faults::Only(
      {"do it", "begin", FaultOrder::Moment::kBefore, FaultOrder::Action::kFail, ENOENT});
  EXPECT_TRUE(absl::IsNotFound(TheOperation().Run(&flow_, &faults, 7)));
}

TEST_F(StepsTest, AnOrderedFaultIsInsteadOfTheStepOrAfterIt) {
  Faults faults = Faults::FromFile(path_);
  Order("do it\tgo on\tbefore\tfail\t28\n");
  EXPECT_TRUE(absl::IsResourceExhausted(TheOperation().Run(&flow_, &faults, 7)));
  EXPECT_EQ(flow_.done, (std::vector<int>{7}));
  EXPECT_TRUE(Spent());

  Order("do it\tgo on\tafter\tfail\t5\n");
  EXPECT_EQ(TheOperation().Run(&flow_, &faults, 1).code(), absl::StatusCode::kInternal);
  EXPECT_EQ(flow_.done, (std::vector<int>{7, 1, 2}));

  EXPECT_TRUE(TheOperation().Run(&flow_, &faults, 3).ok());
}

TEST_F(StepsTest, AnOrderForAnotherStepOrNoOrderStays) {
  Faults faults = Faults::FromFile(path_);
  for (const char* line : {"do it\tsomething else\tbefore\tfail\t28\n",
                           "another\tgo on\tbefore\tfail\t28\n", "nonsense\n", ""}) {
    Order(line);
    EXPECT_TRUE(TheOperation().Run(&flow_, &faults, 7).ok()) << line;
    EXPECT_FALSE(Spent()) << line;
  }
}

TEST_F(StepsTest, AnOrderCanBeHandedOn) {
  Faults faults = Faults::FromFile(path_);
  Order("elsewhere\tstep\tafter\thang\t30\n");
  EXPECT_FALSE(faults.For("do it").has_value());
  const auto order = faults.For("elsewhere");
  ASSERT_TRUE(order.has_value());
  EXPECT_EQ(FormatFaultOrder(*order), "elsewhere\tstep\tafter\thang\t30\n");
  EXPECT_FALSE(Spent());
  faults.Spend();
  EXPECT_TRUE(Spent());
}

TEST_F(StepsTest, LinesThatOrderNothingAreRefused) {
  for (const char* line :
       {"", "a\tb\tbefore\tfail", "a\tb\tbetween\tfail\t1", "a\tb\tbefore\texplode\t1",
        "a\tb\tbefore\tfail\tx", "a\tb\tbefore\tfail\t-1", "a\tb\tbefore\tfail\t1\t2"}) {
    EXPECT_FALSE(ParseFaultOrder(line).ok()) << line;
  }
}

}  // namespace
}  // namespace davit::sys

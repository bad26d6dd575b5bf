#include "sandbox/operation_gate.h"

#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "gtest/gtest.h"

namespace davit::sandbox {
namespace {

using Mode = OperationGate::Mode;
using PassPtr = std::shared_ptr<OperationGate::Pass>;

TEST(OperationGateTest, SharedOperationsRunTogetherAndAnExclusiveOneWaitsForThem) {
  OperationGate gate;
  OperationGate::Pass first = gate.EnterBlocking(Mode::kShared);
  OperationGate::Pass second = gate.EnterBlocking(Mode::kShared);
  bool ran = false;
  gate.Enter(Mode::kExclusive, [&](PassPtr) { ran = true; });
  first.Release();
  EXPECT_FALSE(ran);
  second.Release();
  EXPECT_TRUE(ran);
}

TEST(OperationGateTest, WaitersRunInTheOrderOfTheirComing) {
  OperationGate gate;
  std::string order;
  std::vector<PassPtr> kept;
  OperationGate::Pass first = gate.EnterBlocking(Mode::kExclusive);
  gate.Enter(Mode::kExclusive, [&](PassPtr) { order += 'a'; });
  gate.Enter(Mode::kShared, [&](PassPtr) { order += 'b'; });
  gate.Enter(Mode::kExclusive, [&](PassPtr) { order += 'c'; });
  EXPECT_EQ(order, "");
  first.Release();
  EXPECT_EQ(order, "abc");
}

TEST(OperationGateTest, ASharedOperationDoesNotOvertakeAWaitingExclusiveOne) {
  OperationGate gate;
  std::string order;
  PassPtr exclusive;
  OperationGate::Pass first = gate.EnterBlocking(Mode::kShared);
  gate.Enter(Mode::kExclusive, [&](PassPtr pass) {
    order += 'x';
    exclusive = std::move(pass);
  });
  gate.Enter(Mode::kShared, [&](PassPtr) { order += 's'; });
  EXPECT_EQ(order, "");
  first.Release();
  EXPECT_EQ(order, "x");
  exclusive.reset();
  EXPECT_EQ(order, "xs");
}

TEST(OperationGateTest, APassMayOutliveItsGate) {
  OperationGate::Pass pass;
  {
    OperationGate gate;
    pass = gate.EnterBlocking(Mode::kExclusive);
  }
  pass.Release();
}

TEST(OperationGateTest, ExclusiveOperationsOfManyThreadsNeverOverlap) {
  OperationGate gate;
  int inside = 0, total = 0;
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 200; ++i) {
        OperationGate::Pass pass = gate.EnterBlocking(Mode::kExclusive);
        EXPECT_EQ(++inside, 1);
        ++total;
        --inside;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(total, 800);
}

}  // namespace
}  // namespace davit::sandbox

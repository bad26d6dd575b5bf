#include "sandbox/state.h"

#include <set>
#include <utility>

#include "gtest/gtest.h"

namespace davit::sandbox {
namespace {

using P = PodPhase;
using C = ContainerPhase;

constexpr P kPodPhases[] = {P::kCreating, P::kReady, P::kStopping, P::kNotReady, P::kGone};
constexpr C kContainerPhases[] = {C::kCreating, C::kCreated, C::kRunning,
                                  C::kExited,   C::kUnknown, C::kGone};

const std::set<std::pair<P, P>> kLegalPodEdges = {
    {P::kCreating, P::kReady}, {P::kCreating, P::kGone},     {P::kReady, P::kStopping},
    {P::kReady, P::kNotReady}, {P::kStopping, P::kNotReady}, {P::kNotReady, P::kGone}};

const std::set<std::pair<C, C>> kLegalContainerEdges = {
    {C::kCreating, C::kCreated}, {C::kCreating, C::kGone},  {C::kCreated, C::kRunning},
    {C::kCreated, C::kExited},   {C::kRunning, C::kExited}, {C::kUnknown, C::kCreated},
    {C::kUnknown, C::kRunning},  {C::kUnknown, C::kExited}, {C::kExited, C::kGone}};

// Every edge of the full square is one test case: a legal one must pass and each other be refused
// with both phases named.
class PodEdgeTest : public ::testing::TestWithParam<std::pair<P, P>> {};

TEST_P(PodEdgeTest, OnlyTheEdgesOfTheTableExist) {
  const auto [from, to] = GetParam();
  const absl::Status status = CheckChange("pod x", from, to);
  if (kLegalPodEdges.count({from, to}) != 0) {
    EXPECT_TRUE(status.ok()) << status;
    return;
  }
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_NE(status.message().find(PhaseName(from)), absl::string_view::npos) << status;
  EXPECT_NE(status.message().find(PhaseName(to)), absl::string_view::npos) << status;
}

std::vector<std::pair<P, P>> AllPodEdges() {
  std::vector<std::pair<P, P>> edges;
  for (P from : kPodPhases) {
    for (P to : kPodPhases) edges.emplace_back(from, to);
  }
  return edges;
}
INSTANTIATE_TEST_SUITE_P(AllEdges, PodEdgeTest, ::testing::ValuesIn(AllPodEdges()));

class ContainerEdgeTest : public ::testing::TestWithParam<std::pair<C, C>> {};

TEST_P(ContainerEdgeTest, OnlyTheEdgesOfTheTableExist) {
  const auto [from, to] = GetParam();
  const absl::Status status = CheckChange("container x", from, to);
  if (kLegalContainerEdges.count({from, to}) != 0) {
    EXPECT_TRUE(status.ok()) << status;
    return;
  }
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_NE(status.message().find(PhaseName(from)), absl::string_view::npos) << status;
}

std::vector<std::pair<C, C>> AllContainerEdges() {
  std::vector<std::pair<C, C>> edges;
  for (C from : kContainerPhases) {
    for (C to : kContainerPhases) edges.emplace_back(from, to);
  }
  return edges;
}
INSTANTIATE_TEST_SUITE_P(AllEdges, ContainerEdgeTest, ::testing::ValuesIn(AllContainerEdges()));

}  // namespace
}  // namespace davit::sandbox

#include "sandbox/state.h"

#include <algorithm>
#include <iterator>

#include "absl/strings/str_cat.h"

namespace davit::sandbox {
namespace {

template <typename Phase>
struct Edge {
  Phase from;
  Phase to;
};

constexpr Edge<PodPhase> kPodEdges[] = {
    {PodPhase::kCreating, PodPhase::kReady},     // everything of RunPod succeeded
    {PodPhase::kCreating, PodPhase::kGone},      // RunPod failed and undid itself
    {PodPhase::kReady, PodPhase::kStopping},     // StopPod
    {PodPhase::kReady, PodPhase::kNotReady},     // the supervisor is lost
    {PodPhase::kStopping, PodPhase::kNotReady},  // StopPod is done
    {PodPhase::kNotReady, PodPhase::kGone},      // RemovePod
};

constexpr Edge<ContainerPhase> kContainerEdges[] = {
    {ContainerPhase::kCreating,
     ContainerPhase::kCreated},                          // everything of CreateContainer succeeded
    {ContainerPhase::kCreating, ContainerPhase::kGone},  // it failed and undid itself
    {ContainerPhase::kCreated, ContainerPhase::kRunning},  // the payload runs
    {ContainerPhase::kCreated, ContainerPhase::kExited},   // not startable, or stopped before
    {ContainerPhase::kRunning, ContainerPhase::kExited},
    {ContainerPhase::kUnknown, ContainerPhase::kCreated},  // heard of again
    {ContainerPhase::kUnknown, ContainerPhase::kRunning},
    {ContainerPhase::kUnknown, ContainerPhase::kExited},
    {ContainerPhase::kExited, ContainerPhase::kGone},  // removed
};

template <typename Phase, size_t N>
bool Contains(const Edge<Phase> (&edges)[N], Phase from, Phase to) {
  return std::any_of(std::begin(edges), std::end(edges),
                     [&](const Edge<Phase>& edge) { return edge.from == from && edge.to == to; });
}

template <typename Phase>
absl::Status Check(absl::string_view what, Phase from, Phase to) {
  if (MayFollow(from, to)) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat(what, " is ", PhaseName(from), ", it cannot become ", PhaseName(to)));
}

}  // namespace

absl::string_view PhaseName(PodPhase phase) {
  switch (phase) {
    case PodPhase::kCreating:
      return "being created";
    case PodPhase::kReady:
      return "ready";
    case PodPhase::kStopping:
      return "being stopped";
    case PodPhase::kNotReady:
      return "not ready";
    case PodPhase::kGone:
      return "removed";
  }
  return "in no known phase";
}

absl::string_view PhaseName(ContainerPhase phase) {
  switch (phase) {
    case ContainerPhase::kCreating:
      return "being created";
    case ContainerPhase::kCreated:
      return "created";
    case ContainerPhase::kRunning:
      return "running";
    case ContainerPhase::kExited:
      return "exited";
    case ContainerPhase::kUnknown:
      return "in an unknown state";
    case ContainerPhase::kGone:
      return "removed";
  }
  return "in no known phase";
}

bool MayFollow(PodPhase from, PodPhase to) { return Contains(kPodEdges, from, to); }
bool MayFollow(ContainerPhase from, ContainerPhase to) {
  return Contains(kContainerEdges, from, to);
}

absl::Status CheckChange(absl::string_view what, PodPhase from, PodPhase to) {
  return Check(what, from, to);
}
absl::Status CheckChange(absl::string_view what, ContainerPhase from, ContainerPhase to) {
  return Check(what, from, to);
}

}  // namespace davit::sandbox

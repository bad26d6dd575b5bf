#ifndef DAVIT_SANDBOX_STATE_H_
#define DAVIT_SANDBOX_STATE_H_

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

// The lives of a pod and of a container as tables: which phase may follow which. Everything else is
// a mistake of ours, and refused.
namespace davit::sandbox {

enum class PodPhase {
  kCreating,  // RunPod is at work; not listed
  kReady,
  kStopping,  // StopPod is at work; takes no new containers; listed as ready
  kNotReady,  // stopped, or its supervisor is lost
  kGone,      // removed
};

enum class ContainerPhase {
  kCreating,  // CreateContainer is at work; not listed
  kCreated,
  kRunning,
  kExited,
  kUnknown,  // found after a restart and not heard of yet, with no record of its own state
  kGone,     // removed
};

absl::string_view PhaseName(PodPhase phase);
absl::string_view PhaseName(ContainerPhase phase);

bool MayFollow(PodPhase from, PodPhase to);
bool MayFollow(ContainerPhase from, ContainerPhase to);

// FailedPrecondition "<what> is <phase>, it cannot become <phase>" for an edge that does not exist.
absl::Status CheckChange(absl::string_view what, PodPhase from, PodPhase to);
absl::Status CheckChange(absl::string_view what, ContainerPhase from, ContainerPhase to);

}  // namespace davit::sandbox

#endif  // DAVIT_SANDBOX_STATE_H_

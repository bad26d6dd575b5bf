#ifndef DAVIT_CRI_STATUS_H_
#define DAVIT_CRI_STATUS_H_

#include "proto/api.pb.h"
#include "sandbox/manager.h"

// Snapshots of the sandbox layer -> CRI messages. Labels, annotations and mounts are exactly those
// of the configuration. Pure and thread-safe.
namespace davit::cri {

void ToPodSandbox(const sandbox::PodView& view, ::runtime::v1::PodSandbox* out);
void ToPodSandboxStatus(const sandbox::PodView& view, ::runtime::v1::PodSandboxStatus* out);
void ToContainer(const sandbox::ContainerView& view, ::runtime::v1::Container* out);
void ToContainerStatus(const sandbox::ContainerView& view, ::runtime::v1::ContainerStatus* out);

// Filters: everything that is set must match; ids match by prefix, as crictl's users type them.
bool Matches(const ::runtime::v1::PodSandboxFilter& filter, const sandbox::PodView& view);
bool Matches(const ::runtime::v1::ContainerFilter& filter, const sandbox::ContainerView& view);

}  // namespace davit::cri

#endif  // DAVIT_CRI_STATUS_H_

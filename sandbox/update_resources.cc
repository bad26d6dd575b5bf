#include <fcntl.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "runtime/spec/parse.h"
#include "runtime/spec/serialize.h"
#include "runtime/sys/errno.h"
#include "runtime/sys/file.h"
#include "sandbox/manager_impl.h"
#include "sandbox/merge_resources.h"
#include "sandbox/record_conversion.h"
#include "sandbox/records.h"

namespace davit::sandbox {

absl::Status ManagerImpl::UpdateResources(const std::string& id,
                                          const runtime::spec::LinuxResources& resources,
                                          MetadataPtr metadata) {
  const CallInProgress call(this);
  DAVIT_RETURN_IF_ERROR(call.status());
  DAVIT_ASSIGN_OR_RETURN(const ContainerPtr container, registry_.FindContainer(id));
  const OperationGate::Pass pass = container->gate().EnterBlocking(OperationGate::Mode::kExclusive);
  const std::string what = absl::StrCat("update resources of container ", container->id());
  const ContainerPhase phase = container->phase();
  if (phase != ContainerPhase::kCreated && phase != ContainerPhase::kRunning) {
    return absl::FailedPreconditionError(absl::StrCat(what, ": it is ", PhaseName(phase)));
  }
  // Everything that can fail without having changed anything comes first.
  const std::string& directory = container->fixed().directory;
  DAVIT_ASSIGN_OR_RETURN(sys::UniqueFd bundle, sys::OpenDirAt(AT_FDCWD, directory));
  DAVIT_ASSIGN_OR_RETURN(const std::string json, sys::ReadFileAt(bundle.get(), "config.json",
                                                                 runtime::spec::kMaxSpecBytes));
  auto spec = runtime::spec::ParseSpec(json);
  if (!spec.ok()) return sys::Annotate(spec.status(), what);
  DAVIT_ASSIGN_OR_RETURN(auto record, ReadContainerRecord(directory, Newer::kTake));
  const runtime::spec::LinuxResources before =
      spec->linux_.resources.value_or(runtime::spec::LinuxResources());
  spec->linux_.resources = MergeResources(before, resources);
  if (metadata != nullptr) record.set_metadata(SerializeMetadata(metadata));

  const std::string group = container->view()->cgroup_path;
  DAVIT_RETURN_IF_ERROR(sys::Annotate(groups_->Update(group, resources), what));
  absl::Status written =
      sys::WriteFileAtomic(bundle.get(), "config.json", runtime::spec::SerializeSpec(*spec), 0600,
                           sys::Durability::kProcess);
  if (written.ok()) written = WriteContainerRecord(directory, record);
  if (!written.ok()) {
    // Limits that no record tells of would be lost with the next start: back to those it does.
    groups_->Update(group, before).IgnoreError();
    sys::WriteFileAtomic(bundle.get(), "config.json", json, 0600, sys::Durability::kProcess)
        .IgnoreError();
    return sys::Annotate(written, what);
  }
  if (metadata != nullptr) {
    container->Edit([&](ContainerView* view) { view->metadata = std::move(metadata); });
  }
  return absl::OkStatus();
}

}  // namespace davit::sandbox

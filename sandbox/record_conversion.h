#ifndef DAVIT_SANDBOX_RECORD_CONVERSION_H_
#define DAVIT_SANDBOX_RECORD_CONVERSION_H_

#include <string>

#include "absl/status/statusor.h"
#include "sandbox/manager.h"

namespace davit::state::v1 {
class PodRecord;
class ContainerRecord;
}  // namespace davit::state::v1

// Between the records on disk and what the manager shows. Pure. What is in a view but not in a
// record (pid, state, times of a running container) comes from the supervisor.
namespace davit::sandbox {

// Sets everything that `view` holds (its spec and metadata included).
void ToRecord(const PodView& view, state::v1::PodRecord* record);
// The view of a record that was read; `directory` is the pod's. Fails if the metadata cannot be
// parsed.
absl::StatusOr<PodView> FromRecord(const state::v1::PodRecord& record, const std::string& directory,
                                   const MetadataCodec& codec);

void ToRecord(const ContainerView& view, const ContainerSpec& spec,
              state::v1::ContainerRecord* record);
absl::StatusOr<ContainerView> FromRecord(const state::v1::ContainerRecord& record,
                                         const std::string& directory,
                                         const std::string& layer_directory,
                                         const MetadataCodec& codec);

// "" for no metadata.
std::string SerializeMetadata(const MetadataPtr& metadata);

}  // namespace davit::sandbox

#endif  // DAVIT_SANDBOX_RECORD_CONVERSION_H_

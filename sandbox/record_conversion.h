#ifndef DAVIT_SANDBOX_RECORD_CONVERSION_H_
#define DAVIT_SANDBOX_RECORD_CONVERSION_H_

#include <string>
#include <vector>

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

// Of a record or of a supervisor's configuration: repeated messages that have the same fields.
template <typename Messages>
void SetMaps(const std::vector<runtime::spec::IdMapping>& maps, Messages* messages) {
  messages->Clear();
  for (const runtime::spec::IdMapping& map : maps) {
    auto* message = messages->Add();
    message->set_container_id(map.container_id);
    message->set_host_id(map.host_id);
    message->set_size(map.size);
  }
}

// "" for no metadata.
std::string SerializeMetadata(const MetadataPtr& metadata);

}  // namespace davit::sandbox

#endif  // DAVIT_SANDBOX_RECORD_CONVERSION_H_

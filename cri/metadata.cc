#include "cri/metadata.h"

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "proto/metadata.pb.h"

namespace davit::cri {
namespace {

absl::Status Broken(const char* what) {
  return absl::DataLossError(absl::StrCat("the stored configuration of a ", what, " is damaged"));
}

// google::protobuf wants an int size; records are far below 2 GiB.
template <typename Message>
bool ParseBytes(absl::string_view bytes, Message* message) {
  return message->ParseFromArray(bytes.data(), static_cast<int>(bytes.size()));
}

}  // namespace

absl::StatusOr<std::shared_ptr<const PodMetadata>> PodMetadata::Parse(absl::string_view bytes) {
  state::Pod stored;
  ::runtime::v1::PodSandboxConfig config;
  if (!ParseBytes(bytes, &stored) || !ParseBytes(stored.config(), &config)) return Broken("pod");
  return std::make_shared<const PodMetadata>(std::move(config));
}

std::string PodMetadata::Serialize() const {
  state::Pod stored;
  stored.set_config(config_.SerializeAsString());
  return stored.SerializeAsString();
}

const PodMetadata& PodMetadata::Of(const sandbox::PodView& pod) {
  static const PodMetadata& none = *new PodMetadata({});
  const auto* metadata = dynamic_cast<const PodMetadata*>(pod.metadata.get());
  return metadata == nullptr ? none : *metadata;
}

absl::StatusOr<std::shared_ptr<const ContainerMetadata>> ContainerMetadata::Parse(
    absl::string_view bytes) {
  state::Container stored;
  ::runtime::v1::ContainerConfig config;
  if (!ParseBytes(bytes, &stored) || !ParseBytes(stored.config(), &config)) {
    return Broken("container");
  }
  User user = {stored.uid(), stored.gid(), {stored.groups().begin(), stored.groups().end()}};
  return std::make_shared<const ContainerMetadata>(std::move(config), std::move(user));
}

std::string ContainerMetadata::Serialize() const {
  state::Container stored;
  stored.set_config(config_.SerializeAsString());
  stored.set_uid(user_.uid);
  stored.set_gid(user_.gid);
  for (const int64_t group : user_.groups) stored.add_groups(group);
  return stored.SerializeAsString();
}

const ContainerMetadata& ContainerMetadata::Of(const sandbox::ContainerView& container) {
  static const ContainerMetadata& none = *new ContainerMetadata({}, {});
  const auto* metadata = dynamic_cast<const ContainerMetadata*>(container.metadata.get());
  return metadata == nullptr ? none : *metadata;
}

sandbox::MetadataCodec Codec() {
  sandbox::MetadataCodec codec;
  codec.parse_pod = [](absl::string_view bytes) -> absl::StatusOr<sandbox::MetadataPtr> {
    return PodMetadata::Parse(bytes);
  };
  codec.parse_container = [](absl::string_view bytes) -> absl::StatusOr<sandbox::MetadataPtr> {
    return ContainerMetadata::Parse(bytes);
  };
  return codec;
}

}  // namespace davit::cri

#ifndef DAVIT_CRI_METADATA_H_
#define DAVIT_CRI_METADATA_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "proto/api.pb.h"
#include "sandbox/manager.h"

namespace davit::cri {

// The CRI configuration that travels with a pod or container, so that lists and status can show it
// unaltered, also after a restart. Immutable. Serialized as proto/metadata.proto says.
class PodMetadata final : public sandbox::Metadata {
 public:
  explicit PodMetadata(::runtime::v1::PodSandboxConfig config) : config_(std::move(config)) {}

  static absl::StatusOr<std::shared_ptr<const PodMetadata>> Parse(absl::string_view bytes);
  std::string Serialize() const override;

  const ::runtime::v1::PodSandboxConfig& config() const { return config_; }

  // The pod's own; a default one if the view carries something else.
  static const PodMetadata& Of(const sandbox::PodView& pod);

 private:
  const ::runtime::v1::PodSandboxConfig config_;
};

class ContainerMetadata final : public sandbox::Metadata {
 public:
  struct User {
    int64_t uid = 0;
    int64_t gid = 0;
    std::vector<int64_t> groups;
  };
  ContainerMetadata(::runtime::v1::ContainerConfig config, User user)
      : config_(std::move(config)), user_(std::move(user)) {}

  static absl::StatusOr<std::shared_ptr<const ContainerMetadata>> Parse(absl::string_view bytes);
  std::string Serialize() const override;

  const ::runtime::v1::ContainerConfig& config() const { return config_; }
  const User& user() const { return user_; }

  static const ContainerMetadata& Of(const sandbox::ContainerView& container);

 private:
  const ::runtime::v1::ContainerConfig config_;
  const User user_;
};

// What the manager needs to give Metadata back after a restart.
sandbox::MetadataCodec Codec();

}  // namespace davit::cri

#endif  // DAVIT_CRI_METADATA_H_

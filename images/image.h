#ifndef DAVIT_IMAGES_IMAGE_H_
#define DAVIT_IMAGES_IMAGE_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace davit::images {

// What an image's config says about the process to run (image-spec config.md, "config"). All of it
// was written by a stranger: data, never a path or a name that is believed.
struct ImageConfig {
  std::string user;
  std::vector<std::string> env;
  std::vector<std::string> entrypoint;
  std::vector<std::string> cmd;
  std::vector<std::string> volumes;
  std::string working_dir;
  std::string stop_signal;
  std::map<std::string, std::string> labels;
  std::string os;
  std::string architecture;
  std::string variant;
};

// One image of the store. Immutable; a change makes a new object.
struct Image {
  std::string id;                         // config digest, "sha256:<hex>"
  std::string manifest_digest;            // of the platform's manifest
  std::vector<std::string> repo_tags;     // normalised: "docker.io/library/busybox:latest"
  std::vector<std::string> repo_digests;  // "docker.io/library/busybox@sha256:..."
  uint64_t size = 0;                      // bytes on disk, > 0
  bool pinned = false;
  ImageConfig config;
  std::string config_json;  // verbatim
  std::map<std::string, std::string> annotations;
  std::vector<std::string> diff_ids;  // bottom layer first
  std::string chain_id;               // of the top layer
};

}  // namespace davit::images

#endif  // DAVIT_IMAGES_IMAGE_H_

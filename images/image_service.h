#ifndef DAVIT_IMAGES_IMAGE_SERVICE_H_
#define DAVIT_IMAGES_IMAGE_SERVICE_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "images/image.h"
#include "runtime/sys/steps.h"

namespace davit::images {

// The credentials of one pull, as CRI's AuthConfig carries them. Never logged.
struct Credentials {
  std::string username;
  std::string password;
  std::string auth;  // base64("user:password"), possibly with trailing NULs
  std::string identity_token;
  std::string registry_token;
  std::string server_address;  // not empty: use only for this host
};

struct PullRequest {
  std::string reference;  // as the user wrote it: "busybox", "host:5000/a/b:tag", "name@sha256:..."
  std::optional<Credentials> credentials;
  std::map<std::string, std::string> annotations;
};

// Where the images of a node live and how they are fetched.
struct RegistryOptions {
  std::vector<std::string> mirrors;  // base URLs, tried in order before the registry itself
  std::string ca_file;               // PEM; empty = the system's
  bool insecure_http = false;        // plain HTTP allowed (loopback always is)
  bool skip_verify = false;          // TLS without verification
};

struct ImageServiceOptions {
  std::string root;           // /var/lib/davit/images
  std::string unpack_helper;  // path of davit-unpack; read into a sealed memfd once at start
  std::map<std::string, RegistryOptions> registries;  // key: registry host as in references
  std::vector<std::string> pinned;                    // references that garbage collection keeps
  int max_parallel_layers = 3;
  bool keep_layer_blobs = false;
  absl::Duration stall_timeout = absl::Seconds(60);  // no byte and no unpacked entry for so long
  sys::Faults* faults = nullptr;  // for tests: what steps have to suffer; borrowed
};

struct FsUsage {
  std::string mountpoint;
  uint64_t used_bytes = 0;
  uint64_t inodes = 0;
};

// Keeps the layers of an image on disk while it lives, whatever is removed meanwhile. Destroying it
// may start the background removal of layers that nobody uses any more. Thread-safe.
class LayerPin {
 public:
  virtual ~LayerPin() = default;
  // Absolute directories, the topmost layer first, as overlayfs' lowerdir wants them.
  virtual const std::vector<std::string>& lower_dirs() const = 0;
  // The one of them whose owner, mode and xattrs are those of the image's root directory: the
  // topmost that describes it. overlayfs shows its upper directory's instead, so whoever makes an
  // upper directory copies them from here.
  virtual const std::string& root_dir() const { return lower_dirs().front(); }
};

// A pull that was asked for. Cancelling only stops this caller from waiting: the pull itself is a
// detached job that an identical request joins; one that nobody waits for ends after a grace time.
class PullTicket {
 public:
  virtual ~PullTicket() = default;
  virtual void Cancel() = 0;  // the callback gets kCancelled unless it has been called already
};

// Images of a node: pull, list, status, removal; durable in SQLite (images/store/...). Thread-safe.
// Listing and status are served from memory and never wait for a pull or a removal.
class ImageService {
 public:
  using PullCallback = std::function<void(absl::StatusOr<std::string> image_id)>;

  virtual ~ImageService() = default;

  // Opens the store, deletes whatever a killed daemon left half done, and starts the worker
  // threads.
  static absl::StatusOr<std::unique_ptr<ImageService>> Open(ImageServiceOptions options);

  // The steps of every operation by their names, for fault injection.
  static std::vector<sys::OperationSteps> Steps();

  // Pulls and calls back from a thread of the service's own, exactly once, with the image id; from
  // this one, before it returns, if there can be no thread (ResourceExhausted).
  // Every call makes its own authorised manifest request with its own credentials.
  // Errors: InvalidArgument (reference), NotFound (no such image), Unauthenticated /
  // PermissionDenied, Unavailable (registry cannot be reached: message begins
  // "RegistryUnavailable"), DataLoss (digest or size differs), FailedPrecondition (a layer that
  // breaks the rules), ResourceExhausted (disk).
  virtual std::unique_ptr<PullTicket> Pull(PullRequest request, PullCallback callback) = 0;

  // By id (with or without "sha256:"), unique id prefix (>= 4 hex digits), or any form of
  // reference. Null if there is none.
  virtual std::shared_ptr<const Image> Find(absl::string_view reference) const = 0;
  virtual std::vector<std::shared_ptr<const Image>> List() const = 0;

  // Removes the image that `reference` names, with all its tags and digests, in one transaction.
  // Success if there is none. Its layers go when the last pin does.
  virtual absl::Status Remove(absl::string_view reference) = 0;

  // Pins the layers of an image by its id. NotFound.
  virtual absl::StatusOr<std::unique_ptr<LayerPin>> PinLayers(absl::string_view image_id) = 0;

  // Pins layers by the directories that an earlier PinLayers gave, for a container found again
  // after a restart, even if its image has been removed since. Call before StartGarbageCollection.
  virtual absl::StatusOr<std::unique_ptr<LayerPin>> RepinLayers(
      const std::vector<std::string>& lower_dirs) = 0;

  // Recovery has pinned what it needs: layers without image and pin may go from now on.
  virtual void StartGarbageCollection() = 0;

  virtual FsUsage Usage() const = 0;

  // New registry settings (configuration reload), for pulls that begin from now on.
  virtual void SetRegistries(std::map<std::string, RegistryOptions> registries) = 0;
};

}  // namespace davit::images

#endif  // DAVIT_IMAGES_IMAGE_SERVICE_H_

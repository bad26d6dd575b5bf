#ifndef DAVIT_IMAGES_UNPACK_LAYER_TREE_H_
#define DAVIT_IMAGES_UNPACK_LAYER_TREE_H_

#include <sys/types.h>
#include <time.h>

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "runtime/sys/unique_fd.h"

namespace davit::images::unpack {

// The directories of a layer in the making: resolves paths to directory descriptors, keeps those in
// a cache, makes missing parents and remembers which it made.
// Symbolic links of the layer are followed as if the top directory were "/" (absolute ones and ".."
// stay inside), one component at a time with openat2 that itself follows none, so that every
// directory has one *canonical* path without links, by which it is known here.
// Only one process changes the tree meanwhile, through this object. Not thread-safe.
class LayerTree {
 public:
  struct Directory {
    sys::UniqueFd fd;  // O_RDONLY
    std::string path;  // canonical
  };

  // What a directory gets only when nothing is created in it any more: its times, and what its
  // children would inherit.
  struct Final {
    bool implicit = false;  // made because something beneath it needed it
    std::optional<timespec> atime;
    std::optional<timespec> mtime;
    std::optional<mode_t> mode;              // one with the set-group-ID bit
    std::optional<std::string> default_acl;  // system.posix_acl_default
  };

  LayerTree(sys::UniqueFd root, uint32_t max_depth);

  // The directory at a clean path; missing ones are made 0755 and noted as implicit. The pointer is
  // good until the next call of any method. FailedPrecondition: something on the way is no
  // directory, or too many links.
  absl::StatusOr<const Directory*> Get(absl::string_view path);

  // The canonical form of a clean path, of which any tail may be missing: missing components are
  // taken as they are. Makes nothing. The last component is resolved too.
  absl::StatusOr<std::string> Canonical(absl::string_view path) const;

  // Opens the child directory `name`, which exists, and caches it.
  absl::StatusOr<const Directory*> OpenChild(const Directory& parent, absl::string_view name);

  // Removes what is at `name`, if anything: a directory with all that it holds. True if it was a
  // directory: then whatever is known by a path beneath it is stale.
  // `parent`, as the last Get gave it, stays good.
  absl::StatusOr<bool> Remove(const Directory& parent, const std::string& name);

  Final& final_state(const std::string& canonical) { return finals_[canonical]; }
  const std::map<std::string, Final>& finals() const { return finals_; }
  int root() const { return root_.get(); }

  // Gives every directory its final attributes. Nothing is created afterwards.
  absl::Status Finish();

 private:
  struct Walk;

  absl::StatusOr<const Directory*> Insert(absl::string_view key, Directory directory);
  absl::Status Step(Walk* walk, absl::string_view name) const;
  absl::Status Enter(Walk* walk, absl::string_view name) const;
  void ForgetCache();

  const sys::UniqueFd root_;
  const uint32_t max_depth_;
  // By the path that was asked for, which may lead through links.
  std::unordered_map<std::string, std::shared_ptr<const Directory>> cache_;
  std::string last_key_;
  std::shared_ptr<const Directory> last_;
  std::shared_ptr<const Directory> kept_;  // no longer cached, but still in its caller's hands
  std::map<std::string, Final> finals_;    // by canonical path
};

// Erases `path` + "/..." from an ordered map or set that is keyed by canonical paths.
template <typename Container>
void EraseBeneath(Container* container, const std::string& path) {
  container->erase(container->lower_bound(path + "/"),
                   container->lower_bound(path + static_cast<char>('/' + 1)));
}

}  // namespace davit::images::unpack

#endif  // DAVIT_IMAGES_UNPACK_LAYER_TREE_H_

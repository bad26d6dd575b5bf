#ifndef DAVIT_SANDBOX_WRITABLE_LAYERS_H_
#define DAVIT_SANDBOX_WRITABLE_LAYERS_H_

#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "runtime/spec/spec.h"
#include "runtime/sys/mutex.h"
#include "sandbox/workers.h"

namespace davit::sandbox {

// The writable layers of containers: <root>/containers/<id>/{upper,work}, what overlayfs writes to.
// Thread-safe.
class WritableLayers {
 public:
  // Makes <root>/containers and <root>/trash, and begins to empty the latter in the background.
  static absl::StatusOr<std::unique_ptr<WritableLayers>> Open(const std::string& root);
  // Waits until what is in the trash has been tried.
  ~WritableLayers();

  std::string DirectoryOf(const std::string& container_id) const;
  // The container's user namespace; both empty: the node's.
  struct Owners {
    std::vector<runtime::spec::IdMapping> uids;
    std::vector<runtime::spec::IdMapping> gids;
  };
  // Makes the container's directory and in it `upper`, with owner, mode and extended attributes of
  // `root_dir`: overlayfs shows the payload its upper directory's as those of "/". The owner is
  // mapped as that of every file in the image is; one that `owners` leaves out becomes the
  // container's root. `work` is made by the container's plan. AlreadyExists.
  absl::Status Make(const std::string& container_id, const std::string& root_dir,
                    const Owners& owners);
  // Renames the layer into the trash, which costs the same however large it is, and unlinks it in
  // the background, again and again if that fails. A missing layer is success.
  absl::Status Remove(const std::string& container_id);
  // Moves it to set-aside/ beside the others: nothing removes it. The new path; NotFound.
  absl::StatusOr<std::string> SetAside(const std::string& container_id);
  // Ids of the layers that are there.
  absl::StatusOr<std::vector<std::string>> List() const;

 private:
  explicit WritableLayers(const std::string& root);
  // On the unlinker.
  void Unlink(const std::string& path, absl::Duration pause);

  const std::string containers_;
  const std::string trash_;
  sys::Mutex mutex_;
  sys::CondVar ends_;
  bool ending_ ABSL_GUARDED_BY(mutex_) = false;
  Workers unlinker_{1};
};

}  // namespace davit::sandbox

#endif  // DAVIT_SANDBOX_WRITABLE_LAYERS_H_

#include "sandbox/writable_layers.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>

#include <cerrno>

#include "absl/strings/str_cat.h"
#include "runtime/sys/errno.h"
#include "runtime/sys/file.h"
#include "sandbox/ids.h"
#include "sandbox/records.h"

namespace davit::sandbox {

WritableLayers::WritableLayers(const std::string& root)
    : containers_(absl::StrCat(root, "/containers")), trash_(absl::StrCat(root, "/trash")) {}

WritableLayers::~WritableLayers() = default;

absl::StatusOr<std::unique_ptr<WritableLayers>> WritableLayers::Open(const std::string& root) {
  auto layers = std::unique_ptr<WritableLayers>(new WritableLayers(root));
  // 0711: a container in a user namespace must be able to reach its own upper directory.
  DAVIT_RETURN_IF_ERROR(sys::MakeDirs(layers->containers_, 0711));
  DAVIT_RETURN_IF_ERROR(sys::MakeDirs(layers->trash_, 0700));
  DAVIT_ASSIGN_OR_RETURN(const auto left, ListDirectory(layers->trash_));
  for (const std::string& name : left) {
    layers->unlinker_.Run([path = absl::StrCat(layers->trash_, "/", name)] {
      // What fails now is tried again at the next start.
      sys::RemoveTreeAt(AT_FDCWD, path).IgnoreError();
    });
  }
  return layers;
}

std::string WritableLayers::DirectoryOf(const std::string& container_id) const {
  return absl::StrCat(containers_, "/", container_id);
}

absl::Status WritableLayers::Make(const std::string& container_id) {
  const std::string path = DirectoryOf(container_id);
  if (mkdir(path.c_str(), 0711) != 0) {
    return sys::ErrnoStatus(errno, absl::StrCat("make writable layer ", path));
  }
  return absl::OkStatus();
}

absl::Status WritableLayers::Remove(const std::string& container_id) {
  const std::string from = DirectoryOf(container_id);
  const std::string to = absl::StrCat(trash_, "/", container_id, ".", NewId().substr(0, 8));
  if (rename(from.c_str(), to.c_str()) != 0) {
    if (errno == ENOENT) return absl::OkStatus();
    return sys::ErrnoStatus(errno, absl::StrCat("move writable layer ", from, " to the trash"));
  }
  unlinker_.Run([to] { sys::RemoveTreeAt(AT_FDCWD, to).IgnoreError(); });
  return absl::OkStatus();
}

absl::StatusOr<std::vector<std::string>> WritableLayers::List() const {
  DAVIT_ASSIGN_OR_RETURN(auto names, ListDirectory(containers_));
  std::vector<std::string> ids;
  for (std::string& name : names) {
    if (IsId(name)) ids.push_back(std::move(name));
  }
  return ids;
}

}  // namespace davit::sandbox

#include "images/store/damaged_store.h"

#include <stdio.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <system_error>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "runtime/sys/errno.h"
#include "runtime/sys/file.h"

namespace davit::images {

absl::StatusOr<DamagedStore> SetStoreAside(const std::string& root) {
  const std::string parent = absl::StrCat(root, "/set-aside");
  DAVIT_RETURN_IF_ERROR(sys::MakeDirs(parent, 0700));
  DamagedStore aside;
  for (int n = 0;; ++n) {
    aside.path = absl::StrCat(parent, "/", n);
    if (mkdir(aside.path.c_str(), 0700) == 0) break;
    if (errno != EEXIST) return sys::ErrnoStatus(errno, absl::StrCat("make ", aside.path));
  }
  // The database last: while it is there, another start does the same again.
  for (const char* name :
       {"layers", "layer-index", "oci", "images.db-shm", "images.db-wal", "images.db"}) {
    const std::string from = absl::StrCat(root, "/", name);
    const std::string to = absl::StrCat(aside.path, "/", name);
    if (rename(from.c_str(), to.c_str()) != 0 && errno != ENOENT) {
      return sys::ErrnoStatus(errno, absl::StrCat("set aside ", from));
    }
  }
  std::error_code error;
  std::filesystem::directory_iterator names(aside.path + "/layers", error);
  for (const auto& entry : names) {
    int64_t id = 0;
    if (absl::SimpleAtoi(entry.path().filename().string(), &id)) {
      aside.highest_layer = std::max(aside.highest_layer, id);
    }
  }
  return aside;
}

}  // namespace davit::images

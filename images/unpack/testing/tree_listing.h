#ifndef DAVIT_IMAGES_UNPACK_TESTING_TREE_LISTING_H_
#define DAVIT_IMAGES_UNPACK_TESTING_TREE_LISTING_H_

#include <map>
#include <string>

#include "runtime/sys/unique_fd.h"

namespace davit::images::unpack::testing {

// A new directory that is removed, with all in it, at the end of the test.
class TempDir {
 public:
  TempDir();
  ~TempDir();
  const std::string& path() const { return path_; }
  int fd() const { return fd_.get(); }
  // A new descriptor of the directory, O_RDONLY.
  sys::UniqueFd Open() const;
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
  sys::UniqueFd fd_;
};

struct ListingOptions {
  bool times = true;
  bool xattrs = true;
};

// Every entry beneath `root` by its relative path ("" is the root itself), described in one line:
// type, mode, owner, modification time, size and hash of the content, link target, device number,
// xattrs, and the first path of the same inode. Two trees are equal if their listings are.
std::map<std::string, std::string> ListTree(const std::string& root,
                                            const ListingOptions& options = {});

// The entries that differ, one a line; empty if none do.
std::string DiffListings(const std::map<std::string, std::string>& got,
                         const std::map<std::string, std::string>& want);

}  // namespace davit::images::unpack::testing

#endif  // DAVIT_IMAGES_UNPACK_TESTING_TREE_LISTING_H_

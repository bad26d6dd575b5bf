#include "images/unpack/testing/tree_listing.h"

#include <dirent.h>
#include <fcntl.h>
#include <openssl/sha.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "runtime/sys/file.h"

namespace davit::images::unpack::testing {
namespace {

using Inodes = std::map<std::pair<dev_t, ino_t>, std::string>;

std::string Xattrs(const std::string& path) {
  std::string names(65536, '\0');
  const ssize_t size = llistxattr(path.c_str(), names.data(), names.size());
  if (size <= 0) return "";
  names.resize(static_cast<size_t>(size));
  std::vector<std::string> lines;
  for (const absl::string_view name : absl::StrSplit(names, '\0', absl::SkipEmpty())) {
    std::string value(65536, '\0');
    const ssize_t length =
        lgetxattr(path.c_str(), std::string(name).c_str(), value.data(), value.size());
    value.resize(length < 0 ? 0 : static_cast<size_t>(length));
    lines.push_back(absl::StrCat(" ", name, "=", absl::BytesToHexString(value)));
  }
  std::sort(lines.begin(), lines.end());
  std::string all;
  for (const std::string& line : lines) all += line;
  return all;
}

std::string Content(const std::string& path) {
  const auto data = sys::ReadFileAt(AT_FDCWD, path, size_t{1} << 32);
  if (!data.ok()) return std::string(data.status().message());
  unsigned char digest[SHA256_DIGEST_LENGTH];
  SHA256(reinterpret_cast<const unsigned char*>(data->data()), data->size(), digest);
  return absl::BytesToHexString(absl::string_view(reinterpret_cast<char*>(digest), 8));
}

std::string Describe(const std::string& path, const std::string& relative, const struct stat& st,
                     const ListingOptions& options, Inodes* inodes) {
  char head[128];
  snprintf(head, sizeof head, "%06o %u:%u", st.st_mode, st.st_uid, st.st_gid);
  std::string line = head;
  if (options.times) {
    snprintf(head, sizeof head, " %lld.%09ld", static_cast<long long>(st.st_mtim.tv_sec),
             st.st_mtim.tv_nsec);
    line += head;
  }
  if (S_ISREG(st.st_mode)) absl::StrAppend(&line, " ", st.st_size, " ", Content(path));
  if (S_ISLNK(st.st_mode)) {
    char target[4096];
    const ssize_t n = readlink(path.c_str(), target, sizeof target);
    absl::StrAppend(&line, " -> ", absl::string_view(target, static_cast<size_t>(n)));
  }
  if (S_ISCHR(st.st_mode) || S_ISBLK(st.st_mode)) {
    absl::StrAppend(&line, " dev ", gnu_dev_major(st.st_rdev), ":", gnu_dev_minor(st.st_rdev));
  }
  if (options.xattrs) line += Xattrs(path);
  if (!S_ISDIR(st.st_mode)) {
    const auto [first, fresh] = inodes->emplace(std::pair(st.st_dev, st.st_ino), relative);
    if (!fresh) absl::StrAppend(&line, " same as ", first->second);
  }
  return line;
}

void Walk(const std::string& root, const std::string& relative, const ListingOptions& options,
          Inodes* inodes, std::map<std::string, std::string>* out) {
  const std::string path = relative.empty() ? root : absl::StrCat(root, "/", relative);
  struct stat st;
  if (lstat(path.c_str(), &st) != 0) {
    (*out)[relative] = "cannot be examined";
    return;
  }
  (*out)[relative] = Describe(path, relative, st, options, inodes);
  if (!S_ISDIR(st.st_mode)) return;
  std::vector<std::string> names;
  if (DIR* const dir = opendir(path.c_str())) {
    while (const dirent* entry = readdir(dir)) {
      const std::string name = entry->d_name;
      if (name != "." && name != "..") names.push_back(name);
    }
    closedir(dir);
  }
  std::sort(names.begin(), names.end());
  for (const std::string& name : names) {
    Walk(root, relative.empty() ? name : absl::StrCat(relative, "/", name), options, inodes, out);
  }
}

}  // namespace

TempDir::TempDir() {
  // Not $TEST_TMPDIR: tests put the path into tar headers, whose name field has 100 bytes.
  path_ = "/tmp/davit-unpack.XXXXXX";
  if (mkdtemp(path_.data()) == nullptr) abort();
  if (chmod(path_.c_str(), 0755) != 0) abort();
  fd_ = Open();
}

TempDir::~TempDir() { (void)sys::RemoveTreeAt(AT_FDCWD, path_); }

sys::UniqueFd TempDir::Open() const {
  return sys::UniqueFd(open(path_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
}

std::map<std::string, std::string> ListTree(const std::string& root,
                                            const ListingOptions& options) {
  std::map<std::string, std::string> out;
  Inodes inodes;
  Walk(root, "", options, &inodes, &out);
  return out;
}

std::string DiffListings(const std::map<std::string, std::string>& got,
                         const std::map<std::string, std::string>& want) {
  std::string out;
  for (const auto& [path, line] : want) {
    const auto found = got.find(path);
    if (found == got.end()) {
      absl::StrAppend(&out, "missing ", path, ": ", line, "\n");
    } else if (found->second != line) {
      absl::StrAppend(&out, path, ":\n  got  ", found->second, "\n  want ", line, "\n");
    }
  }
  for (const auto& [path, line] : got) {
    if (want.count(path) == 0) absl::StrAppend(&out, "extra ", path, ": ", line, "\n");
  }
  return out;
}

}  // namespace davit::images::unpack::testing

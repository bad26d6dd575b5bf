#include "images/store/layer_index.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <zstd.h>

#include <algorithm>
#include <cerrno>
#include <memory>
#include <set>
#include <utility>
#include <vector>

#include "absl/cleanup/cleanup.h"
#include "absl/status/status.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "runtime/sys/errno.h"
#include "runtime/sys/file.h"

namespace davit::images {
namespace {

constexpr size_t kMaxIndexBytes = size_t{4} << 30;

struct Walk {
  std::string lines;
  uint64_t bytes = 0;
  uint64_t inodes = 0;
  std::set<std::pair<dev_t, ino_t>> linked;  // files with several links, seen so far
};

void Note(const struct stat& st, const std::string& path, Walk* walk) {
  const uint64_t size = S_ISREG(st.st_mode) ? static_cast<uint64_t>(st.st_size) : 0;
  absl::StrAppendFormat(&walk->lines, "%o %d ", st.st_mode, size);
  walk->lines.append(path);
  walk->lines.push_back('\0');
  if (st.st_nlink > 1 && !S_ISDIR(st.st_mode) &&
      !walk->linked.emplace(st.st_dev, st.st_ino).second) {
    return;
  }
  walk->bytes += static_cast<uint64_t>(st.st_blocks) * 512;
  ++walk->inodes;
}

absl::StatusOr<std::vector<std::string>> SortedNames(int dirfd, const std::string& path) {
  // fdopendir owns and moves what it is given.
  DAVIT_ASSIGN_OR_RETURN(sys::UniqueFd own, sys::OpenAt(dirfd, ".", O_RDONLY | O_DIRECTORY));
  DIR* dir = fdopendir(own.get());
  if (dir == nullptr) return sys::ErrnoStatus(errno, absl::StrCat("read directory ", path));
  (void)own.release();
  const auto close = absl::MakeCleanup([dir] { closedir(dir); });
  std::vector<std::string> names;
  for (;;) {
    errno = 0;
    const dirent* entry = readdir(dir);
    if (entry == nullptr) {
      if (errno != 0) return sys::ErrnoStatus(errno, absl::StrCat("read directory ", path));
      break;
    }
    std::string name = entry->d_name;
    if (name != "." && name != "..") names.push_back(std::move(name));
  }
  std::sort(names.begin(), names.end());
  return names;
}

// One directory on the way down. A stack of these and not recursion: the depth is the image's. For
// the same reason only the lowest is open; ".." leads back, for nobody moves anything meanwhile.
struct Level {
  std::string path;  // "" for the top
  std::vector<std::string> names;
  size_t next = 0;
};

absl::Status WalkTree(int top, Walk* walk) {
  struct stat st;
  if (fstat(top, &st) != 0) return sys::ErrnoStatus(errno, "stat the layer");
  Note(st, ".", walk);
  DAVIT_ASSIGN_OR_RETURN(sys::UniqueFd current, sys::OpenAt(top, ".", O_RDONLY | O_DIRECTORY));
  std::vector<Level> stack(1);
  DAVIT_ASSIGN_OR_RETURN(stack[0].names, SortedNames(top, "."));
  while (!stack.empty()) {
    Level& level = stack.back();
    if (level.next == level.names.size()) {
      stack.pop_back();
      if (stack.empty()) break;
      DAVIT_ASSIGN_OR_RETURN(current, sys::OpenAt(current.get(), "..", O_RDONLY | O_DIRECTORY));
      continue;
    }
    const std::string& name = level.names[level.next++];
    const std::string path = level.path.empty() ? name : absl::StrCat(level.path, "/", name);
    if (fstatat(current.get(), name.c_str(), &st, AT_SYMLINK_NOFOLLOW) != 0) {
      return sys::ErrnoStatus(errno, absl::StrCat("stat ", path));
    }
    Note(st, path, walk);
    if (!S_ISDIR(st.st_mode)) continue;
    Level below;
    DAVIT_ASSIGN_OR_RETURN(current,
                           sys::OpenAt(current.get(), name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW));
    below.path = path;
    DAVIT_ASSIGN_OR_RETURN(below.names, SortedNames(current.get(), path));
    stack.push_back(std::move(below));
  }
  return absl::OkStatus();
}

// The record that begins at `at`, up to its end mark.
absl::string_view RecordAt(absl::string_view lines, size_t at) {
  return lines.substr(at, lines.find('\0', at) - at);
}

}  // namespace

absl::StatusOr<TreeSummary> SummariseTree(int dirfd) {
  Walk walk;
  DAVIT_RETURN_IF_ERROR(WalkTree(dirfd, &walk));
  TreeSummary summary;
  summary.bytes = walk.bytes;
  summary.inodes = walk.inodes;
  summary.index.resize(ZSTD_compressBound(walk.lines.size()));
  const size_t size = ZSTD_compress(summary.index.data(), summary.index.size(), walk.lines.data(),
                                    walk.lines.size(), 1);
  if (ZSTD_isError(size) != 0) {
    return absl::InternalError(absl::StrCat("compress a layer index: ", ZSTD_getErrorName(size)));
  }
  summary.index.resize(size);
  return summary;
}

absl::Status CheckTree(int dirfd, const std::string& index) {
  const unsigned long long size = ZSTD_getFrameContentSize(index.data(), index.size());
  if (size == ZSTD_CONTENTSIZE_UNKNOWN || size == ZSTD_CONTENTSIZE_ERROR || size > kMaxIndexBytes) {
    return absl::DataLossError("the layer's index is damaged");
  }
  std::string wanted(size, '\0');
  const size_t got = ZSTD_decompress(wanted.data(), wanted.size(), index.data(), index.size());
  if (ZSTD_isError(got) != 0 || got != size) {
    return absl::DataLossError("the layer's index is damaged");
  }
  Walk walk;
  DAVIT_RETURN_IF_ERROR(WalkTree(dirfd, &walk));
  if (walk.lines == wanted) return absl::OkStatus();
  size_t at = 0;
  while (at < wanted.size() && at < walk.lines.size()) {
    const absl::string_view expected = RecordAt(wanted, at);
    const absl::string_view found = RecordAt(walk.lines, at);
    if (expected != found) {
      return absl::DataLossError(absl::StrCat("the layer has \"", absl::CHexEscape(found),
                                              "\" where it had \"", absl::CHexEscape(expected),
                                              "\""));
    }
    at += expected.size() + 1;
  }
  return absl::DataLossError("the layer has more or fewer entries than it had");
}

}  // namespace davit::images

#include "images/store/layer_index.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <zstd.h>

#include <algorithm>
#include <cerrno>
#include <functional>
#include <memory>
#include <set>
#include <utility>
#include <vector>

#include "absl/cleanup/cleanup.h"
#include "absl/status/status.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "runtime/sys/errno.h"
#include "runtime/sys/file.h"

namespace davit::images {
namespace {

// Names held at one time: a directory of millions of long names must not take the daemon's memory.
constexpr size_t kMaxNameBytes = 256 << 20;
constexpr size_t kBuffer = 1 << 20;

using RecordSink = std::function<absl::Status(absl::string_view record)>;

struct Walk {
  RecordSink sink;
  uint64_t bytes = 0;
  uint64_t inodes = 0;
  size_t name_bytes = 0;
  std::set<std::pair<dev_t, ino_t>> linked;  // files with several links, seen so far
};

absl::Status Note(const struct stat& st, const std::string& path, Walk* walk) {
  const uint64_t size = S_ISREG(st.st_mode) ? static_cast<uint64_t>(st.st_size) : 0;
  std::string record = absl::StrFormat("%o %d ", st.st_mode, size);
  record.append(path);
  record.push_back('\0');
  DAVIT_RETURN_IF_ERROR(walk->sink(record));
  if (st.st_nlink > 1 && !S_ISDIR(st.st_mode) &&
      !walk->linked.emplace(st.st_dev, st.st_ino).second) {
    return absl::OkStatus();
  }
  walk->bytes += static_cast<uint64_t>(st.st_blocks) * 512;
  ++walk->inodes;
  return absl::OkStatus();
}

absl::StatusOr<std::vector<std::string>> SortedNames(int dirfd, const std::string& path,
                                                     Walk* walk) {
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
    if (name == "." || name == "..") continue;
    walk->name_bytes += sizeof(std::string) + name.size();
    if (walk->name_bytes > kMaxNameBytes) {
      return absl::FailedPreconditionError("the layer has a directory with too many entries");
    }
    names.push_back(std::move(name));
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
  DAVIT_RETURN_IF_ERROR(Note(st, ".", walk));
  DAVIT_ASSIGN_OR_RETURN(sys::UniqueFd current, sys::OpenAt(top, ".", O_RDONLY | O_DIRECTORY));
  std::vector<Level> stack(1);
  DAVIT_ASSIGN_OR_RETURN(stack[0].names, SortedNames(top, ".", walk));
  while (!stack.empty()) {
    Level& level = stack.back();
    if (level.next == level.names.size()) {
      for (const std::string& name : level.names) {
        walk->name_bytes -= sizeof(std::string) + name.size();
      }
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
    DAVIT_RETURN_IF_ERROR(Note(st, path, walk));
    if (!S_ISDIR(st.st_mode)) continue;
    Level below;
    DAVIT_ASSIGN_OR_RETURN(current,
                           sys::OpenAt(current.get(), name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW));
    below.path = path;
    DAVIT_ASSIGN_OR_RETURN(below.names, SortedNames(current.get(), path, walk));
    stack.push_back(std::move(below));
  }
  return absl::OkStatus();
}

struct CompressorDeleter {
  void operator()(ZSTD_CCtx* context) const { ZSTD_freeCCtx(context); }
};
struct DecompressorDeleter {
  void operator()(ZSTD_DCtx* context) const { ZSTD_freeDCtx(context); }
};

// Compresses records as they come.
class IndexWriter {
 public:
  absl::Status Add(absl::string_view record) {
    buffer_.append(record.data(), record.size());
    return buffer_.size() < kBuffer ? absl::OkStatus() : Flush(ZSTD_e_continue);
  }
  absl::StatusOr<std::string> Finish() {
    DAVIT_RETURN_IF_ERROR(Flush(ZSTD_e_end));
    return std::move(out_);
  }

 private:
  absl::Status Flush(ZSTD_EndDirective directive) {
    ZSTD_inBuffer in = {buffer_.data(), buffer_.size(), 0};
    for (;;) {
      const size_t used = out_.size();
      out_.resize(used + ZSTD_CStreamOutSize());
      ZSTD_outBuffer out = {out_.data() + used, out_.size() - used, 0};
      const size_t left = ZSTD_compressStream2(context_.get(), &out, &in, directive);
      out_.resize(used + out.pos);
      if (ZSTD_isError(left) != 0) {
        return absl::InternalError(
            absl::StrCat("compress a layer index: ", ZSTD_getErrorName(left)));
      }
      if (directive == ZSTD_e_end ? left == 0 : in.pos == in.size) break;
    }
    buffer_.clear();
    return absl::OkStatus();
  }

  const std::unique_ptr<ZSTD_CCtx, CompressorDeleter> context_{ZSTD_createCCtx()};
  std::string buffer_;
  std::string out_;
};

// Compares records, as they come, with those of an index.
class IndexComparer {
 public:
  explicit IndexComparer(absl::string_view index) : in_{index.data(), index.size(), 0} {}

  absl::Status Compare(absl::string_view record) {
    DAVIT_RETURN_IF_ERROR(Fill(record.size()));
    if (absl::StartsWith(absl::string_view(wanted_).substr(at_), record)) {
      at_ += record.size();
      return absl::OkStatus();
    }
    const size_t end = wanted_.find('\0', at_);
    return absl::DataLossError(
        absl::StrCat("the layer has \"", absl::CHexEscape(record.substr(0, record.size() - 1)),
                     "\" where it had \"", absl::CHexEscape(wanted_.substr(at_, end - at_)), "\""));
  }
  absl::Status Finish() {
    DAVIT_RETURN_IF_ERROR(Fill(1));
    return at_ == wanted_.size() ? absl::OkStatus()
                                 : absl::DataLossError("the layer has fewer entries than it had");
  }

 private:
  // Makes `size` bytes available, or as many as there are.
  absl::Status Fill(size_t size) {
    while (wanted_.size() - at_ < size && !ended_) {
      wanted_.erase(0, at_);
      at_ = 0;
      const size_t used = wanted_.size();
      wanted_.resize(used + ZSTD_DStreamOutSize());
      ZSTD_outBuffer out = {wanted_.data() + used, wanted_.size() - used, 0};
      const size_t left = ZSTD_decompressStream(context_.get(), &out, &in_);
      wanted_.resize(used + out.pos);
      ended_ = left == 0;
      if (ZSTD_isError(left) != 0 || (!ended_ && out.pos == 0 && in_.pos == in_.size)) {
        return absl::DataLossError("the layer's index is damaged");
      }
    }
    return absl::OkStatus();
  }

  const std::unique_ptr<ZSTD_DCtx, DecompressorDeleter> context_{ZSTD_createDCtx()};
  ZSTD_inBuffer in_;
  std::string wanted_;
  size_t at_ = 0;
  bool ended_ = false;
};

}  // namespace

absl::StatusOr<TreeSummary> SummariseTree(int dirfd) {
  IndexWriter writer;
  Walk walk;
  walk.sink = [&writer](absl::string_view record) { return writer.Add(record); };
  DAVIT_RETURN_IF_ERROR(WalkTree(dirfd, &walk));
  TreeSummary summary;
  summary.bytes = walk.bytes;
  summary.inodes = walk.inodes;
  DAVIT_ASSIGN_OR_RETURN(summary.index, writer.Finish());
  return summary;
}

absl::Status CheckTree(int dirfd, const std::string& index) {
  IndexComparer comparer(index);
  Walk walk;
  walk.sink = [&comparer](absl::string_view record) { return comparer.Compare(record); };
  DAVIT_RETURN_IF_ERROR(WalkTree(dirfd, &walk));
  return comparer.Finish();
}

}  // namespace davit::images

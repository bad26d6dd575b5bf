#include "images/store/oci_layout.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <nlohmann/json.hpp>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "runtime/sys/errno.h"
#include "runtime/sys/file.h"

namespace davit::images {
namespace {

constexpr char kLayoutFile[] = R"({"imageLayoutVersion":"1.0.0"})";

std::string BlobPath(const Digest& digest) {
  return absl::StrCat("blobs/", digest.algorithm_name(), "/", digest.hex());
}

}  // namespace

absl::StatusOr<std::unique_ptr<OciLayout>> OciLayout::Open(const std::string& root) {
  for (const char* directory : {"", "/blobs", "/blobs/sha256", "/blobs/sha512"}) {
    DAVIT_RETURN_IF_ERROR(sys::MakeDirs(absl::StrCat(root, directory), 0700));
  }
  DAVIT_ASSIGN_OR_RETURN(sys::UniqueFd fd, sys::OpenDirAt(AT_FDCWD, root));
  if (faccessat(fd.get(), "oci-layout", F_OK, 0) != 0) {
    DAVIT_RETURN_IF_ERROR(
        sys::WriteFileAtomic(fd.get(), "oci-layout", kLayoutFile, 0644, sys::Durability::kProcess));
  }
  return std::unique_ptr<OciLayout>(new OciLayout(std::move(fd)));
}

absl::StatusOr<std::unique_ptr<OciLayout::Hold>> OciLayout::Put(const Digest& digest,
                                                                absl::string_view bytes) {
  // What an image relies on already is not replaced by bytes that a power cut could still take.
  if (auto hold = HoldGood(digest, bytes.size())) return hold;
  std::string temporary;
  {
    sys::MutexLock lock(&mutex_);
    temporary = absl::StrCat("blobs/.new-", ++temporary_);
  }
  const auto remove = absl::MakeCleanup([&] { unlinkat(root_.get(), temporary.c_str(), 0); });
  {
    DAVIT_ASSIGN_OR_RETURN(const sys::UniqueFd file,
                           sys::OpenAt(root_.get(), temporary, O_WRONLY | O_CREAT | O_TRUNC, 0644));
    DAVIT_RETURN_IF_ERROR(sys::WriteAll(file.get(), bytes, digest.ToString()));
  }
  return Adopt(digest, root_.get(), temporary, bytes.size());
}

std::unique_ptr<OciLayout::Hold> OciLayout::HoldGood(const Digest& digest, uint64_t size) {
  if (!Has(digest)) return nullptr;
  AddReference(digest.ToString(), size);
  auto hold = std::make_unique<Hold>(this, digest.ToString(), size);
  return Read(digest, size).ok() ? std::move(hold) : nullptr;
}

absl::StatusOr<std::unique_ptr<OciLayout::Hold>> OciLayout::Adopt(const Digest& digest, int dirfd,
                                                                  const std::string& name,
                                                                  uint64_t size) {
  const std::string path = BlobPath(digest);
  sys::MutexLock lock(&mutex_);
  // Always replaces: what was there may have been damaged, and a new pull is how it is repaired.
  int result = renameat(dirfd, name.c_str(), root_.get(), path.c_str());
  if (result != 0 && errno == EISDIR) {
    // Not of our making, so it is not ours to delete.
    const std::string aside = absl::StrCat("set-aside-", digest.hex(), "-", ++temporary_);
    result = renameat2(root_.get(), path.c_str(), root_.get(), aside.c_str(), RENAME_NOREPLACE);
    if (result == 0) result = renameat(dirfd, name.c_str(), root_.get(), path.c_str());
  }
  if (result != 0) {
    return sys::ErrnoStatus(errno, absl::StrCat("store blob ", digest.ToString()));
  }
  if (references_[digest.ToString()]++ == 0) bytes_ += size;
  return std::make_unique<Hold>(this, digest.ToString(), size);
}

absl::StatusOr<std::string> OciLayout::Read(const Digest& digest, size_t limit) const {
  DAVIT_ASSIGN_OR_RETURN(std::string bytes, sys::ReadFileAt(root_.get(), BlobPath(digest), limit));
  if (Hasher::Hash(digest.algorithm(), bytes) != digest) {
    return absl::DataLossError(absl::StrCat("the stored blob ", digest.ToString(), " is damaged"));
  }
  return bytes;
}

bool OciLayout::Has(const Digest& digest) const {
  sys::MutexLock lock(&mutex_);
  return references_.contains(digest.ToString());
}

void OciLayout::AddReference(const std::string& digest, uint64_t size) {
  sys::MutexLock lock(&mutex_);
  if (references_[digest]++ == 0) bytes_ += size;
}

void OciLayout::DropReference(const std::string& digest, uint64_t size) {
  sys::MutexLock lock(&mutex_);
  const auto it = references_.find(digest);
  if (it == references_.end() || --it->second > 0) return;
  references_.erase(it);
  bytes_ -= std::min(bytes_, size);
  const auto parsed = Digest::Parse(digest);
  // What cannot be unlinked now goes at the next start.
  if (parsed.ok()) unlinkat(root_.get(), BlobPath(*parsed).c_str(), 0);
}

void OciLayout::RemoveUnreferenced() {
  sys::MutexLock lock(&mutex_);
  for (const char* algorithm : {"", "sha256", "sha512"}) {
    const std::string path = absl::StrCat("blobs/", algorithm);
    auto fd = sys::OpenAt(root_.get(), path, O_RDONLY | O_DIRECTORY);
    if (!fd.ok()) continue;
    DIR* dir = fdopendir(fd->get());
    if (dir == nullptr) continue;
    (void)fd->release();
    while (const dirent* entry = readdir(dir)) {
      if (entry->d_type != DT_REG) continue;
      const std::string digest = absl::StrCat(algorithm, ":", entry->d_name);
      if (references_.contains(digest)) continue;
      // Only what a store writes.
      const bool ours = algorithm[0] == '\0' ? absl::StartsWith(entry->d_name, ".new-")
                                             : Digest::Parse(digest).ok();
      if (!ours) continue;
      unlinkat(dirfd(dir), entry->d_name, 0);
    }
    closedir(dir);
  }
}

absl::Status OciLayout::WriteIndex(const std::vector<Entry>& entries) {
  nlohmann::json manifests = nlohmann::json::array();
  for (const Entry& entry : entries) {
    nlohmann::json item = {
        {"mediaType", entry.media_type}, {"digest", entry.digest}, {"size", entry.size}};
    if (!entry.name.empty()) {
      item["annotations"] = {{"org.opencontainers.image.ref.name", entry.name}};
    }
    manifests.push_back(std::move(item));
  }
  const nlohmann::json index = {{"schemaVersion", 2},
                                {"mediaType", "application/vnd.oci.image.index.v1+json"},
                                {"manifests", std::move(manifests)}};
  // Names may hold anything that the grammar of references allows, which is ASCII.
  return sys::WriteFileAtomic(root_.get(), "index.json", index.dump(1), 0644,
                              sys::Durability::kProcess);
}

uint64_t OciLayout::bytes() const {
  sys::MutexLock lock(&mutex_);
  return bytes_;
}

uint64_t OciLayout::files() const {
  sys::MutexLock lock(&mutex_);
  return references_.size();
}

}  // namespace davit::images

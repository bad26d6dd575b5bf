#include "images/testing/temp_dir.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <set>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "runtime/sys/file.h"

namespace davit::images::testing {
namespace {

void Require(bool ok) {
  if (!ok) std::abort();
}

}  // namespace

TempDir::TempDir() {
  const char* base = std::getenv("TEST_TMPDIR");
  path_ = absl::StrCat(base != nullptr ? base : "/tmp", "/images-XXXXXX");
  Require(mkdtemp(path_.data()) != nullptr);
}

TempDir::~TempDir() { (void)sys::RemoveTreeAt(AT_FDCWD, path_); }

std::string TempDir::path(absl::string_view name) const { return absl::StrCat(path_, "/", name); }

void MakeDir(const std::string& path, unsigned mode) {
  Require(mkdir(path.c_str(), mode) == 0);
  Require(chmod(path.c_str(), mode) == 0);
}

void WriteTestFile(const std::string& path, absl::string_view content, unsigned mode) {
  const auto fd = sys::OpenAt(AT_FDCWD, path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
  Require(fd.ok() && sys::WriteAll(fd->get(), content, path).ok());
  Require(fchmod(fd->get(), mode) == 0);
}

std::string ReadTestFile(const std::string& path) {
  auto content = sys::ReadFileAt(AT_FDCWD, path, size_t{1} << 30);
  Require(content.ok());
  return *std::move(content);
}

bool Exists(const std::string& path) {
  struct stat st;
  return lstat(path.c_str(), &st) == 0;
}

std::string Names(const std::string& path) {
  std::set<std::string> names;
  DIR* dir = opendir(path.c_str());
  Require(dir != nullptr);
  while (const dirent* entry = readdir(dir)) {
    const std::string name = entry->d_name;
    if (name != "." && name != "..") names.insert(name);
  }
  closedir(dir);
  return absl::StrJoin(names, " ");
}

}  // namespace davit::images::testing

#ifndef DAVIT_IMAGES_TESTING_TEMP_DIR_H_
#define DAVIT_IMAGES_TESTING_TEMP_DIR_H_

#include <string>

#include "absl/strings/string_view.h"

namespace davit::images::testing {

// A directory of a test's own, removed with everything in it.
class TempDir {
 public:
  TempDir();
  ~TempDir();
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;

  const std::string& path() const { return path_; }
  std::string path(absl::string_view name) const;

 private:
  std::string path_;
};

// Helpers that abort when they fail: a test cannot go on without what they make.
void MakeDir(const std::string& path, unsigned mode = 0755);
void WriteTestFile(const std::string& path, absl::string_view content, unsigned mode = 0644);
std::string ReadTestFile(const std::string& path);
bool Exists(const std::string& path);
// The names in a directory, sorted.
std::string Names(const std::string& path);

}  // namespace davit::images::testing

#endif  // DAVIT_IMAGES_TESTING_TEMP_DIR_H_

#include <errno.h>
#include <string.h>

#include "runtime/stage/stage.h"
#include "runtime/sys/syscalls.h"

namespace davit::runtime::stage {

namespace raw = sys::raw;

int OpenBeneath(const Stage& stage, int base, const char* path, uint64_t flags, uint64_t resolve) {
  return raw::OpenAt2(base < 0 ? stage.root : base, path, flags, 0,
                      raw::kResolveInRoot | raw::kResolveNoMagiclinks | resolve);
}

int OpenParent(Stage& stage, int base, const char* path, const char** name) {
  while (*path == '/') ++path;
  const char* last = strrchr(path, '/');
  if (last == nullptr) {
    *name = path;
    return OpenBeneath(stage, base, "/", O_PATH | O_DIRECTORY, 0);
  }
  *name = last + 1;
  const size_t length = static_cast<size_t>(last - path);
  if (length >= kPathBuffer) return -ENAMETOOLONG;
  memcpy(stage.buffer, path, length);
  stage.buffer[length] = '\0';
  return MakeDirectories(stage, base, stage.buffer, 0755);
}

int MakeDirectories(Stage& stage, int base, const char* path, mode_t mode) {
  const int whole = OpenBeneath(stage, base, path, O_PATH | O_DIRECTORY, 0);
  if (whole != -ENOENT) return whole;
  if (path != stage.buffer) {
    const size_t length = strlen(path);
    if (length >= kPathBuffer) return -ENAMETOOLONG;
    memcpy(stage.buffer, path, length + 1);
  }
  // Every prefix is resolved from the base, so that links mean what they will mean to the payload.
  // What is missing is made in the directory that holds it, and opened there without following
  // anything: whoever swaps it for a link meanwhile gets an error, not a directory elsewhere.
  char* const text = stage.buffer;
  int parent = OpenBeneath(stage, base, "/", O_PATH | O_DIRECTORY, 0);
  size_t at = 0;
  while (parent >= 0) {
    while (text[at] == '/') ++at;
    if (text[at] == '\0') return parent;
    size_t end = at;
    while (text[end] != '\0' && text[end] != '/') ++end;
    const char saved = text[end];
    text[end] = '\0';
    int next = OpenBeneath(stage, base, text, O_PATH | O_DIRECTORY, 0);
    if (next == -ENOENT) {
      next = static_cast<int>(raw::Call(SYS_mkdirat, parent, text + at, mode));
      if (next == 0 || next == -EEXIST) {
        next = raw::OpenAt2(parent, text + at, O_PATH | O_DIRECTORY | O_NOFOLLOW, 0,
                            raw::kResolveBeneath | raw::kResolveNoSymlinks);
      }
    }
    raw::Close(parent);
    parent = next;
    text[end] = saved;
    at = end;
  }
  return parent;
}

}  // namespace davit::runtime::stage

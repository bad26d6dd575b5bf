#include <errno.h>
#include <string.h>

#include "runtime/stage/stage.h"
#include "runtime/sys/syscalls.h"

namespace davit::runtime::stage {

namespace raw = sys::raw;

namespace {

// As many links as the kernel follows in one path (man 7 path_resolution).
constexpr int kMaxLinks = 40;

// Replaces the name at text[begin, end), whose directory `parent` is, by what the link there says.
// -EINVAL if it is no link.
int ExpandLink(int parent, char* text, size_t begin, size_t end) {
  char target[kPathBuffer];
  const char saved = text[end];
  text[end] = '\0';
  const long size = raw::Call(SYS_readlinkat, parent, text + begin, target, sizeof(target));
  text[end] = saved;
  if (size < 0) return static_cast<int>(size);
  const size_t length = static_cast<size_t>(size);
  const size_t kept = length > 0 && target[0] == '/' ? 0 : begin;
  const size_t rest = strlen(text + end) + 1;
  if (length == 0 || kept + length + rest > kPathBuffer) return -ENAMETOOLONG;
  memmove(text + kept + length, text + end, rest);
  memcpy(text + kept, target, length);
  return 0;
}

}  // namespace

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
  // anything: whoever swaps it for a link meanwhile gets an error, not a directory elsewhere. What
  // a link of the image leads to is made as well ("/var/run -> /run" without a /run).
  char* const text = stage.buffer;
  int parent = OpenBeneath(stage, base, "/", O_PATH | O_DIRECTORY, 0);
  size_t at = 0;
  int links = 0;
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
      if ((next == -ELOOP || next == -ENOTDIR) && links < kMaxLinks) {
        text[end] = saved;
        if (ExpandLink(parent, text, at, end) == 0) {
          ++links;
          raw::Close(parent);
          parent = OpenBeneath(stage, base, "/", O_PATH | O_DIRECTORY, 0);
          at = 0;
          continue;
        }
      }
    }
    raw::Close(parent);
    parent = next;
    text[end] = saved;
    at = end;
  }
  return parent;
}

int MakeMissingFile(Stage& stage, int base, const char* path, mode_t mode) {
  char text[kPathBuffer];
  const size_t length = strlen(path);
  if (length >= kPathBuffer) return -ENAMETOOLONG;
  memcpy(text, path, length + 1);
  for (int links = 0; links <= kMaxLinks; ++links) {
    const char* name = nullptr;
    const int parent = OpenParent(stage, base, text, &name);
    if (parent < 0) return parent;
    const int file = raw::OpenAt(parent, name, O_CREAT | O_EXCL | O_NOFOLLOW | O_WRONLY, mode);
    // A link that leads nowhere, as many images have for /etc/resolv.conf: its target is made.
    const size_t begin = static_cast<size_t>(name - text);
    const int expanded =
        file == -EEXIST ? ExpandLink(parent, text, begin, begin + strlen(name)) : -EINVAL;
    raw::Close(parent);
    if (file >= 0) raw::Close(file);
    if (expanded == 0) continue;
    return file >= 0 || file == -EEXIST ? 0 : file;
  }
  return -ELOOP;
}

}  // namespace davit::runtime::stage

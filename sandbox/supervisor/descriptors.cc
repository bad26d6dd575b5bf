#include "sandbox/supervisor/descriptors.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "runtime/sys/errno.h"

namespace davit::sandbox {
namespace {

using upgrade::v1::Descriptor;
using upgrade::v1::SupervisorState;

absl::Status CheckOne(const Descriptor& descriptor) {
  const std::string what = absl::StrCat("inherited descriptor ", descriptor.number());
  if (descriptor.number() <= STDERR_FILENO || descriptor.number() > INT_MAX) {
    return absl::InvalidArgumentError(absl::StrCat(what, ": not a number to hand on"));
  }
  struct stat st;
  if (fstat(static_cast<int>(descriptor.number()), &st) != 0) {
    return absl::InvalidArgumentError(absl::StrCat(what, " is not open"));
  }
  if (st.st_dev != descriptor.device() || st.st_ino != descriptor.inode() ||
      (st.st_mode & S_IFMT) != (descriptor.mode() & S_IFMT)) {
    return absl::InvalidArgumentError(absl::StrCat(what, " is another file than it was"));
  }
  return absl::OkStatus();
}

}  // namespace

uint32_t SavedDescriptors::Add(int fd) {
  if (fd < 0) return 0;
  struct stat st {};
  fstat(fd, &st);
  Descriptor* descriptor = state_->add_descriptors();
  descriptor->set_number(static_cast<uint32_t>(fd));
  descriptor->set_device(st.st_dev);
  descriptor->set_inode(st.st_ino);
  descriptor->set_mode(st.st_mode);
  return static_cast<uint32_t>(fd);
}

absl::Status SavedDescriptors::KeepOverExec(bool keep) const {
  for (const Descriptor& descriptor : state_->descriptors()) {
    const int fd = static_cast<int>(descriptor.number());
    if (fcntl(fd, F_SETFD, keep ? 0 : FD_CLOEXEC) != 0) {
      return sys::ErrnoStatus(errno, absl::StrCat("keep descriptor ", fd));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<InheritedDescriptors> InheritedDescriptors::Check(const SupervisorState& state) {
  // All are looked at before one is owned: after a failure none has been closed.
  for (const Descriptor& descriptor : state.descriptors()) {
    DAVIT_RETURN_IF_ERROR(CheckOne(descriptor));
  }
  InheritedDescriptors inherited;
  for (const Descriptor& descriptor : state.descriptors()) {
    const int fd = static_cast<int>(descriptor.number());
    if (inherited.descriptors_.count(descriptor.number()) != 0) {
      for (auto& [number, owned] : inherited.descriptors_) (void)owned.release();
      return absl::InvalidArgumentError(absl::StrCat("descriptor ", fd, " was handed on twice"));
    }
    fcntl(fd, F_SETFD, FD_CLOEXEC);
    inherited.descriptors_.emplace(descriptor.number(), sys::UniqueFd(fd));
  }
  return inherited;
}

absl::StatusOr<sys::UniqueFd> InheritedDescriptors::Take(uint32_t number) {
  if (number == 0) return sys::UniqueFd();
  auto it = descriptors_.find(number);
  if (it == descriptors_.end()) {
    return absl::InvalidArgumentError(
        absl::StrCat("descriptor ", number, " was not handed on, or is in use already"));
  }
  sys::UniqueFd fd = std::move(it->second);
  descriptors_.erase(it);
  return fd;
}

absl::StatusOr<sys::UniqueFd> InheritedDescriptors::TakeNeeded(uint32_t number, const char* what) {
  if (number == 0) return absl::InvalidArgumentError(absl::StrCat("no descriptor for ", what));
  auto fd = Take(number);
  if (!fd.ok()) return sys::Annotate(fd.status(), what);
  return fd;
}

}  // namespace davit::sandbox

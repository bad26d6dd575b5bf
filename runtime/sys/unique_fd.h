#ifndef DAVIT_RUNTIME_SYS_UNIQUE_FD_H_
#define DAVIT_RUNTIME_SYS_UNIQUE_FD_H_

#include <unistd.h>

#include <utility>

namespace davit::sys {

// Owns one file descriptor and closes it when it goes out of scope. Move-only; not thread-safe.
// An empty UniqueFd holds -1. Every descriptor in this code base is opened O_CLOEXEC.
class UniqueFd {
 public:
  UniqueFd() = default;
  explicit UniqueFd(int fd) : fd_(fd) {}
  UniqueFd(UniqueFd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  UniqueFd& operator=(UniqueFd&& other) noexcept {
    if (this != &other) reset(std::exchange(other.fd_, -1));
    return *this;
  }
  UniqueFd(const UniqueFd&) = delete;
  UniqueFd& operator=(const UniqueFd&) = delete;
  ~UniqueFd() { reset(); }

  int get() const { return fd_; }
  bool ok() const { return fd_ >= 0; }

  // Gives the descriptor to the caller, who must close it.
  [[nodiscard]] int release() { return std::exchange(fd_, -1); }

  // Closes what is held and takes `fd`. A failing close is not reported: the descriptor is gone
  // either way (man 2 close), and writers that care have fsynced.
  void reset(int fd = -1) {
    if (fd_ >= 0) ::close(fd_);
    fd_ = fd;
  }

 private:
  int fd_ = -1;
};

}  // namespace davit::sys

#endif  // DAVIT_RUNTIME_SYS_UNIQUE_FD_H_

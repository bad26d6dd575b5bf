#ifndef DAVIT_SANDBOX_SUPERVISOR_HELLO_PAGE_H_
#define DAVIT_SANDBOX_SUPERVISOR_HELLO_PAGE_H_

#include <vector>

#include "proto/supervisor.pb.h"
#include "runtime/sys/unique_fd.h"

namespace davit::sandbox {

// The containers of one reply to Hello (proto/supervisor.proto): as many as one packet and its
// descriptors can take, with messages cut short.
class HelloPage {
 public:
  // With `pages` the daemon asks for what did not fit; an older one is told of all containers at
  // once, and gets no pidfds. `reply` is filled and must outlive this.
  HelloPage(bool pages, supervisor::v1::HelloReply* reply);

  // False if the page is full; then `more` is set. `pidfd` is duplicated; -1 for a container
  // without a process.
  bool Add(const supervisor::v1::ContainerState& state, int pidfd);
  // To go with the packet.
  std::vector<sys::UniqueFd> TakePidfds() { return std::move(pidfds_); }

 private:
  const bool pages_;
  supervisor::v1::HelloReply* const reply_;
  size_t bytes_ = 0;
  std::vector<sys::UniqueFd> pidfds_;
};

}  // namespace davit::sandbox

#endif  // DAVIT_SANDBOX_SUPERVISOR_HELLO_PAGE_H_

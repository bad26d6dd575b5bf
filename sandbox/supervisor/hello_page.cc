#include "sandbox/supervisor/hello_page.h"

#include <fcntl.h>

#include "runtime/sys/socket.h"
#include "runtime/sys/utf8.h"

namespace davit::sandbox {
namespace {

constexpr size_t kMaxMessage = 200;
// Of containers; the rest of a packet is for what is around them.
constexpr size_t kMaxBytes = sys::kMaxPacket / 2;

}  // namespace

HelloPage::HelloPage(bool pages, supervisor::v1::HelloReply* reply)
    : pages_(pages), reply_(reply) {}

bool HelloPage::Add(const supervisor::v1::ContainerState& state, int pidfd) {
  supervisor::v1::ContainerState told = state;
  if (told.message().size() > kMaxMessage) {
    told.set_message(std::string(sys::TruncateUtf8(told.message(), kMaxMessage)));
  }
  sys::UniqueFd copy;
  if (pages_ && pidfd >= 0) copy.reset(fcntl(pidfd, F_DUPFD_CLOEXEC, 3));
  bytes_ += told.ByteSizeLong() + 8;  // its tag and length, and its number in pidfd_of
  const bool full = bytes_ > kMaxBytes || (copy.ok() && pidfds_.size() == sys::kMaxPacketFds);
  if (pages_ && full && reply_->containers_size() > 0) {
    reply_->set_more(true);
    return false;
  }
  if (copy.ok()) {
    reply_->add_pidfd_of(reply_->containers_size());
    pidfds_.push_back(std::move(copy));
  }
  *reply_->add_containers() = std::move(told);
  return true;
}

}  // namespace davit::sandbox

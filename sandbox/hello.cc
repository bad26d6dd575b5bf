#include "sandbox/hello.h"

#include <fcntl.h>
#include <signal.h>

#include <utility>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "runtime/sys/file.h"
#include "runtime/sys/spawn.h"
#include "sandbox/protocol_version.h"

namespace davit::sandbox {
namespace {

constexpr size_t kMaxCgroupFile = 64 * 1024;

// man 7 cgroups, /proc/[pid]/cgroup: "hierarchy:controllers:path" in each line.
bool IsIn(const std::string& cgroup_file, const std::string& group) {
  for (const absl::string_view line : absl::StrSplit(cgroup_file, '\n')) {
    const std::vector<absl::string_view> fields = absl::StrSplit(line, absl::MaxSplits(':', 2));
    if (fields.size() < 3) continue;
    if (fields[2] == group || absl::StartsWith(fields[2], absl::StrCat(group, "/"))) return true;
  }
  return false;
}

}  // namespace

supervisor::v1::ToSupervisor HelloRequest(const std::string& after_container) {
  supervisor::v1::ToSupervisor request;
  request.mutable_hello()->set_protocol_version(kProtocolVersion);
  request.mutable_hello()->set_oldest_protocol_version(kOldestProtocolVersion);
  request.mutable_hello()->set_pages(true);
  request.mutable_hello()->set_after_container(after_container);
  return request;
}

absl::StatusOr<std::map<std::string, sys::UniqueFd>> PidfdsOf(
    const supervisor::v1::HelloReply& reply, const std::string& after_container,
    std::vector<sys::UniqueFd> fds) {
  if (static_cast<size_t>(reply.pidfd_of_size()) != fds.size()) {
    return absl::DataLossError(absl::StrCat("the supervisor names ", reply.pidfd_of_size(),
                                            " pidfds and sends ", fds.size()));
  }
  if (reply.more() &&
      (reply.containers_size() == 0 ||
       reply.containers(reply.containers_size() - 1).container_id() <= after_container)) {
    return absl::DataLossError("the supervisor says that there are more containers and names none");
  }
  std::map<std::string, sys::UniqueFd> pidfds;
  for (size_t i = 0; i < fds.size(); ++i) {
    const uint32_t index = reply.pidfd_of(static_cast<int>(i));
    if (index >= static_cast<uint32_t>(reply.containers_size())) {
      return absl::DataLossError(
          "the supervisor sends a pidfd of a container that it does not name");
    }
    pidfds[reply.containers(static_cast<int>(index)).container_id()] = std::move(fds[i]);
  }
  return pidfds;
}

sys::UniqueFd OpenMember(pid_t pid, const std::string& group) {
  auto pidfd = sys::PidfdOpen(pid);
  if (!pidfd.ok()) return {};
  const auto cgroups =
      sys::ReadFileAt(AT_FDCWD, absl::StrCat("/proc/", pid, "/cgroup"), kMaxCgroupFile);
  if (!cgroups.ok() || !IsIn(*cgroups, group)) return {};
  // Still the same process: what was read was not its successor's.
  if (!sys::KillPidfd(pidfd->get(), 0).ok()) return {};
  return *std::move(pidfd);
}

}  // namespace davit::sandbox

#include "sandbox/supervisor_process.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "images/digest.h"
#include "proto/supervisor.pb.h"
#include "runtime/cgroup/layout.h"
#include "runtime/sys/errno.h"
#include "runtime/sys/file.h"
#include "runtime/sys/socket.h"
#include "runtime/sys/spawn.h"

namespace davit::sandbox {
namespace {

constexpr char kProgramName[] = "davit-pod";
constexpr size_t kMaxProgram = 64 * 1024 * 1024;
// How long a killed process may take to leave its group; it does so when it is dead, before it is
// reaped, so this only bounds the wait for one that sits in the kernel.
constexpr absl::Duration kLeafTimeout = absl::Seconds(2);

// Numbers of proto/supervisor.proto, PodConfig.
constexpr int kConnectionFd = 3;
constexpr int kConfigFd = 4;
constexpr int kInitFd = 5;
constexpr int kSelfFd = 6;

}  // namespace

std::string LeafPrefix(absl::string_view unified, absl::string_view own) {
  if (own.empty() || own == "/") return absl::StrCat(unified, "/davit-supervisors/");
  return absl::StrCat(unified, own, "/davit-pod-");
}

absl::StatusOr<std::unique_ptr<SupervisorLauncher>> SupervisorLauncher::Create(
    const std::string& supervisor, const std::string& init) {
  auto launcher = std::unique_ptr<SupervisorLauncher>(new SupervisorLauncher());
  DAVIT_ASSIGN_OR_RETURN(std::string program, sys::ReadFileAt(AT_FDCWD, supervisor, kMaxProgram));
  launcher->program_id_ = images::Hasher::Hash(images::Digest::Algorithm::kSha256, program).hex();
  DAVIT_ASSIGN_OR_RETURN(launcher->supervisor_, sys::SealedMemfd(kProgramName, program));
  DAVIT_ASSIGN_OR_RETURN(program, sys::ReadFileAt(AT_FDCWD, init, kMaxProgram));
  DAVIT_ASSIGN_OR_RETURN(launcher->init_, sys::SealedMemfd("davit-init", program));
  DAVIT_ASSIGN_OR_RETURN(const runtime::cgroup::Layout layout, runtime::cgroup::DetectLayout());
  const int unified = layout.Unified();
  if (unified >= 0) {
    DAVIT_ASSIGN_OR_RETURN(const auto own, runtime::cgroup::OwnGroups(layout));
    launcher->leaf_prefix_ = LeafPrefix(layout.hierarchies[unified].mount_point, own[unified]);
  }
  return launcher;
}

std::string SupervisorLauncher::LeafOf(const std::string& sandbox_id) const {
  return leaf_prefix_.empty() ? "" : absl::StrCat(leaf_prefix_, sandbox_id);
}

absl::StatusOr<SupervisorLauncher::Process> SupervisorLauncher::Start(
    const supervisor::v1::PodConfig& config) const {
  DAVIT_ASSIGN_OR_RETURN(sys::UniqueFd config_fd,
                         sys::SealedMemfd("davit-pod-config", config.SerializeAsString()));
  DAVIT_ASSIGN_OR_RETURN(auto pair, sys::SeqpacketPair());
  Process process;
  process.cgroup = LeafOf(config.sandbox_id());
  sys::UniqueFd cgroup;
  if (!process.cgroup.empty()) {
    DAVIT_RETURN_IF_ERROR(sys::MakeDirs(process.cgroup, 0755));
    DAVIT_ASSIGN_OR_RETURN(cgroup, sys::OpenDirAt(AT_FDCWD, process.cgroup));
  }
  auto remove_leaf = absl::MakeCleanup([&] { rmdir(process.cgroup.c_str()); });

  sys::SpawnOptions options;
  options.executable_fd = supervisor_.get();
  options.argv = {"davit-pod", config.sandbox_id()};
  options.fds = {{pair.second.get(), kConnectionFd},
                 {config_fd.get(), kConfigFd},
                 {init_.get(), kInitFd},
                 {supervisor_.get(), kSelfFd}};
  options.cgroup_fd = cgroup.get();
  options.new_session = true;  // signals for davitd's process group are not for the pods
  auto spawned = sys::Spawn(options);
  if (!spawned.ok()) return sys::Annotate(spawned.status(), "start davit-pod");
  std::move(remove_leaf).Cancel();
  process.pid = spawned->pid;
  process.pidfd = std::move(spawned->pidfd);
  process.socket = std::move(pair.first);
  return process;
}

bool IsSupervisor(pid_t pid) {
  char target[64] = {};
  const ssize_t length =
      readlink(absl::StrCat("/proc/", pid, "/exe").c_str(), target, sizeof target - 1);
  return length > 0 && absl::StartsWith(target, absl::StrCat("/memfd:", kProgramName));
}

absl::Status KillLeaf(const std::string& leaf) {
  if (leaf.empty()) return absl::OkStatus();
  if (rmdir(leaf.c_str()) == 0 || errno == ENOENT) return absl::OkStatus();
  const absl::Status killed =
      sys::WriteExistingAt(AT_FDCWD, absl::StrCat(leaf, "/cgroup.kill"), "1");
  if (absl::IsNotFound(killed) && access(leaf.c_str(), F_OK) != 0) return absl::OkStatus();
  const absl::Time deadline = absl::Now() + kLeafTimeout;
  absl::Duration pause = absl::Microseconds(200);
  for (;;) {
    if (rmdir(leaf.c_str()) == 0 || errno == ENOENT) return absl::OkStatus();
    if (errno != EBUSY || absl::Now() >= deadline) {
      return sys::ErrnoStatus(errno, absl::StrCat("remove cgroup ", leaf));
    }
    absl::SleepFor(pause);
    pause = std::min(pause * 2, absl::Milliseconds(20));
  }
}

}  // namespace davit::sandbox

// davit-pod: the supervisor of one pod. Started by davitd, from a sealed memfd, with these
// descriptors: 3 the first connection, 4 the configuration (a serialized PodConfig), 5 the program
// davit-init, 6 this program itself. Ends with 0 after a Shutdown request, with 1 if the pod could
// not be set up; the error is the answer to the first request.

#include <fcntl.h>
#include <malloc.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/supervisor.pb.h"
#include "runtime/sys/errno.h"
#include "runtime/sys/file.h"
#include "runtime/sys/socket.h"
#include "sandbox/supervisor/supervisor.h"

namespace davit::sandbox {
namespace {

using supervisor::v1::PodConfig;

constexpr int kConnection = 3;
constexpr int kConfig = 4;
constexpr int kInitProgram = 5;
constexpr int kOwnProgram = 6;
constexpr size_t kMaxConfig = 1024 * 1024;
constexpr int kErrorPatienceMs = 10000;

// One arena and no hoarding: there is a process like this for every pod, idle nearly all the time.
void LimitHeap() {
  mallopt(M_ARENA_MAX, 1);
  mallopt(M_TRIM_THRESHOLD, 64 * 1024);
  mallopt(M_TOP_PAD, 16 * 1024);
}

// SIGCHLD is read from a descriptor. The others are not for a supervisor to act on: the daemon
// ends it by a request, and what must end it is SIGKILL.
void BlockSignals() {
  sigset_t all;
  sigfillset(&all);
  for (const int fault : {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT, SIGTRAP, SIGSYS}) {
    sigdelset(&all, fault);
  }
  sigprocmask(SIG_SETMASK, &all, nullptr);
}

absl::StatusOr<PodConfig> ReadConfig() {
  const sys::UniqueFd fd(kConfig);
  DAVIT_ASSIGN_OR_RETURN(std::string bytes, sys::ReadFd(fd.get(), kMaxConfig, "the configuration"));
  PodConfig config;
  if (!config.ParseFromString(bytes)) {
    return absl::InvalidArgumentError("descriptor 4 holds no PodConfig");
  }
  if (config.pod_dir().empty() || config.pod_dir()[0] != '/') {
    return absl::InvalidArgumentError("the configuration names no pod_dir");
  }
  return config;
}

// Answers the first request with why there is no pod.
void ReportFailure(int connection, const absl::Status& status) {
  pollfd poll_fd{connection, POLLIN, 0};
  if (connection < 0 || poll(&poll_fd, 1, kErrorPatienceMs) <= 0) return;
  auto packet = sys::ReceivePacket(connection);
  supervisor::v1::ToSupervisor request;
  if (!packet.ok() || !request.ParseFromString(packet->data)) return;
  supervisor::v1::FromSupervisor message;
  message.mutable_reply()->set_request_id(request.request_id());
  SetError(status, message.mutable_reply()->mutable_error());
  sys::SendPacket(connection, message.SerializeAsString(), {}).IgnoreError();
}

int Main() {
  LimitHeap();
  BlockSignals();
  umask(022);
  prctl(PR_SET_NAME, "davit-pod");
  for (const int fd : {kConnection, kConfig, kInitProgram, kOwnProgram}) {
    fcntl(fd, F_SETFD, FD_CLOEXEC);
  }
  // Kept aside, for the case that there will be no supervisor to speak through the other one.
  sys::UniqueFd to_report(fcntl(kConnection, F_DUPFD_CLOEXEC, kOwnProgram + 1));
  Supervisor::Inheritance inheritance;
  if (to_report.ok()) inheritance.connection.reset(kConnection);
  inheritance.init_program.reset(kInitProgram);
  auto config = ReadConfig();
  if (!config.ok()) {
    ReportFailure(to_report.get(), config.status());
    return 1;
  }
  auto supervisor = Supervisor::Start(*std::move(config), std::move(inheritance));
  if (!supervisor.ok()) {
    ReportFailure(to_report.get(), supervisor.status());
    return 1;
  }
  to_report.reset();
  (*supervisor)->Run();
  return 0;
}

// For tests: what can be made to fail.
int ListSteps() {
  for (const sys::OperationSteps& operation : Supervisor::Steps()) {
    for (const std::string& step : operation.steps) {
      printf("%s\t%s\n", operation.operation.c_str(), step.c_str());
    }
  }
  return 0;
}

}  // namespace
}  // namespace davit::sandbox

int main(int argc, char** argv) {
  if (argc == 2 && strcmp(argv[1], "--list-steps") == 0) return davit::sandbox::ListSteps();
  return davit::sandbox::Main();
}

#include "runtime/stage/launch.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "runtime/stage/stage.h"
#include "runtime/sys/errno.h"
#include "runtime/sys/syscalls.h"

namespace davit::runtime::stage {

namespace raw = sys::raw;
using plan::Op;

namespace {

constexpr size_t kMaxSeccompBytes = 65535 * sizeof(sock_filter);

// Owns a mapping.
class Map {
 public:
  Map() = default;
  ~Map() {
    if (data_ != nullptr) munmap(data_, size_);
  }
  Map(const Map&) = delete;
  Map& operator=(const Map&) = delete;

  absl::Status Shared(int fd, size_t size) {
    return Take(mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0), size,
                "map shared memory");
  }
  absl::Status File(int fd, size_t limit, const char* what) {
    struct stat st;
    if (fstat(fd, &st) != 0) return sys::ErrnoStatus(errno, absl::StrCat("stat ", what));
    if (st.st_size <= 0 || static_cast<uint64_t>(st.st_size) > limit) {
      return absl::InvalidArgumentError(absl::StrCat(what, " has a bad size, ", st.st_size));
    }
    const size_t size = static_cast<size_t>(st.st_size);
    return Take(mmap(nullptr, size, PROT_READ, MAP_PRIVATE, fd, 0), size,
                absl::StrCat("map ", what));
  }

  unsigned char* data() const { return static_cast<unsigned char*>(data_); }
  size_t size() const { return size_; }

 private:
  absl::Status Take(void* data, size_t size, absl::string_view what) {
    if (data == MAP_FAILED) return sys::ErrnoStatus(errno, what);
    data_ = data;
    size_ = size;
    return absl::OkStatus();
  }

  void* data_ = nullptr;
  size_t size_ = 0;
};

// A file without a name, so that it can be mapped again by a program that takes the creator's
// place.
absl::StatusOr<sys::UniqueFd> SharedFile(size_t size) {
  sys::UniqueFd file(memfd_create("davit-stage", MFD_CLOEXEC));
  if (!file.ok() || ftruncate(file.get(), static_cast<off_t>(size)) != 0) {
    return sys::ErrnoStatus(errno, "make shared memory");
  }
  return file;
}

size_t SharedSize(const plan::Header& header) {
  const size_t traces = (size_t{header.parent_count} + header.child_count) * sizeof(Trace);
  return offsetof(Shared, fds) + header.slot_count * sizeof(int32_t) + alignof(Trace) + traces;
}

absl::StatusOr<std::pair<sys::UniqueFd, sys::UniqueFd>> ReportPair() {
  int fds[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds) != 0) {
    return sys::ErrnoStatus(errno, "make the stage's report socket");
  }
  return std::pair(sys::UniqueFd(fds[0]), sys::UniqueFd(fds[1]));
}

// ESRCH: the process whose namespaces are joined has ended. Whoever asked for it named something
// that exists, so this is not NotFound.
absl::Status JoinError(int error, absl::string_view what) {
  const absl::Status status = sys::ErrnoStatus(error, what);
  return error == ESRCH ? absl::FailedPreconditionError(status.message()) : status;
}

// Enters a pid namespace for the children of this thread, and comes back.
class PidNamespaceForChildren {
 public:
  absl::Status Enter(int fd) {
    own_.reset(open("/proc/thread-self/ns/pid", O_RDONLY | O_CLOEXEC));
    if (!own_.ok()) return sys::ErrnoStatus(errno, "open the own pid namespace");
    if (setns(fd, CLONE_NEWPID) != 0) return JoinError(errno, "join the pid namespace");
    return absl::OkStatus();
  }
  // Cannot fail for the namespace that the thread itself lives in.
  ~PidNamespaceForChildren() {
    if (own_.ok()) setns(own_.get(), CLONE_NEWPID);
  }

 private:
  sys::UniqueFd own_;
};

}  // namespace

struct Launch::Mapping {
  Map plan;
  Map shared;
  sys::UniqueFd shared_file;  // until the payload runs
  Map seccomp;
  Stage stage;
  std::vector<int32_t> child_fds;
  std::vector<const char*> argv;
  std::vector<const char*> environment;
  bool undone = false;

  const plan::Header& header() const { return stage.view.header(); }

  absl::Status LoadPlan(int plan_fd) {
    DAVIT_RETURN_IF_ERROR(plan.File(plan_fd, plan::kMaxPlanBytes, "the plan"));
    const std::span<const unsigned char> bytes(plan.data(), plan.size());
    if (const char* error = plan::Validate(bytes)) {
      if (strcmp(error, "another plan version") == 0) {
        const auto* header = reinterpret_cast<const plan::Header*>(bytes.data());
        return absl::FailedPreconditionError(absl::StrCat("the plan has version ", header->version,
                                                          ", and version ", plan::kPlanVersion,
                                                          " is what is executed here"));
      }
      return absl::InvalidArgumentError(absl::StrCat("the plan is not sound: ", error));
    }
    stage.view = plan::View(bytes);
    DAVIT_ASSIGN_OR_RETURN(shared_file, SharedFile(SharedSize(header())));
    DAVIT_RETURN_IF_ERROR(shared.Shared(shared_file.get(), SharedSize(header())));
    stage.shared = new (shared.data()) Shared();
    stage.fds = stage.shared->fds;
    for (uint32_t i = 0; i < header().slot_count; ++i) stage.fds[i] = -1;
    stage.traces = reinterpret_cast<Trace*>(stage.fds + header().slot_count);
    return absl::OkStatus();
  }

  // What the process will need and must not allocate itself.
  absl::Status PrepareChild() {
    const Op& exec = stage.view.child_ops().back();
    plan::ForEachItem(stage.view, exec.s, [&](const char* item) { argv.push_back(item); });
    plan::ForEachItem(stage.view, exec.t, [&](const char* item) { environment.push_back(item); });
    argv.push_back(nullptr);
    environment.push_back(nullptr);
    stage.argv = argv.data();
    stage.environment = environment.data();
    child_fds.resize(header().slot_count, -1);
    const int program = stage.fds[plan::kSeccompProgram];
    if (program < 0) return absl::OkStatus();
    DAVIT_RETURN_IF_ERROR(seccomp.File(program, kMaxSeccompBytes, "the seccomp program"));
    if (seccomp.size() % sizeof(sock_filter) != 0) {
      return absl::InvalidArgumentError("the seccomp program has a bad size");
    }
    stage.seccomp.len = static_cast<unsigned short>(seccomp.size() / sizeof(sock_filter));
    stage.seccomp.filter = reinterpret_cast<sock_filter*>(seccomp.data());
    return absl::OkStatus();
  }

  // External slots that an operation or the header uses.
  absl::Status CheckExternal() const {
    const auto need = [&](int32_t slot) { return slot >= 0 && slot < plan::kExternalSlots; };
    const auto missing = [&](int32_t slot) {
      return absl::InvalidArgumentError(absl::StrCat("the plan needs external descriptor ", slot));
    };
    const plan::Header& h = header();
    if (need(h.pid_namespace) && stage.fds[h.pid_namespace] < 0) return missing(h.pid_namespace);
    for (const Op& op : stage.view.child_ops()) {
      if (op.code == plan::Code::kStdio) continue;  // missing ones are /dev/null
      for (const int32_t slot : {op.a, op.b, op.c}) {
        if (need(slot) && stage.fds[slot] < 0) return missing(slot);
      }
    }
    for (const Op& op : stage.view.parent_ops()) {
      for (const int32_t slot : {op.a, op.b, op.c}) {
        if (need(slot) && stage.fds[slot] < 0) return missing(slot);
      }
    }
    return absl::OkStatus();
  }

  const Op& OpAt(uint32_t number) const {
    const std::span<const Op> parent = stage.view.parent_ops();
    return number < parent.size() ? parent[number] : stage.view.child_ops()[number - parent.size()];
  }

  std::string Object(const Op& op) const {
    if (op.code == plan::Code::kAttachDeviceProgram || op.code == plan::Code::kIds) return "";
    return stage.String(op.s);  // of a list: its first item
  }

  Failure FailureAt(int32_t number, int error) const {
    if (number < 0) return {.operation = "start", .object = "", .error_number = error};
    const Op& op = OpAt(static_cast<uint32_t>(number));
    return {.operation = OpName(op.code), .object = Object(op), .error_number = error};
  }

  absl::Status Undo() {
    const std::span<const Op> ops = stage.view.parent_ops();
    for (size_t i = ops.size(); i > 0; --i) {
      Trace& trace = stage.traces[i - 1];
      const Row* row = FindParentRow(ops[i - 1].code);
      if (trace.done == 0 || row->undo == nullptr) continue;
      const int result = row->undo(stage, ops[i - 1], trace);
      if (result < 0) {
        return sys::ErrnoStatus(-result, absl::StrCat("undo \"", OpName(ops[i - 1].code), "\" of ",
                                                      Object(ops[i - 1])));
      }
      trace.done = 0;
    }
    return absl::OkStatus();
  }
};

absl::Status Failure::ToStatus() const {
  std::string what = operation;
  if (!object.empty()) absl::StrAppend(&what, " \"", object, "\"");
  if (error_number == 0) {
    return absl::AbortedError(absl::StrCat(what, ": the process was killed meanwhile"));
  }
  // Only SetBindAttributes and AddLayer give this for these operations.
  if (error_number == EMEDIUMTYPE) {
    return absl::FailedPreconditionError(absl::StrCat(
        what, ": mounts of this file system cannot be id-mapped, which a user namespace needs"));
  }
  return JoinError(error_number, what);
}

// In place of the plan, in a launch that another program has begun.
struct Launch::Carried {
  std::vector<LaunchState::Group> groups;
  std::vector<LaunchState::Step> steps;
  sys::UniqueFd cgroup;

  Failure FailureAt(int32_t number, int error) const {
    for (const LaunchState::Step& step : steps) {
      if (step.number == number) return {step.operation, step.object, error};
    }
    return {.operation = "start", .object = "", .error_number = error};
  }

  absl::Status Undo() {
    char buffer[kPathBuffer];
    cgroup.reset();
    for (; !groups.empty(); groups.pop_back()) {
      const int result =
          RemoveMadeGroup(groups.back().directory.c_str(), groups.back().made, buffer);
      if (result < 0) {
        return sys::ErrnoStatus(-result, absl::StrCat("undo \"", OpName(plan::Code::kMakeCgroup),
                                                      "\" of ", groups.back().directory));
      }
    }
    return absl::OkStatus();
  }
};

Launch::Launch() : mapping_(std::make_unique<Mapping>()) {}

Launch::~Launch() { CloseSlots(); }

absl::StatusOr<std::unique_ptr<Launch>> Launch::Open(int plan_fd, const ExternalFds& external) {
  std::unique_ptr<Launch> launch(new Launch());
  Mapping& mapping = *launch->mapping_;
  DAVIT_RETURN_IF_ERROR(mapping.LoadPlan(plan_fd));
  for (int slot = 0; slot < plan::kExternalSlots; ++slot) {
    mapping.stage.fds[slot] = external.fds[static_cast<size_t>(slot)];
  }
  DAVIT_RETURN_IF_ERROR(mapping.CheckExternal());
  DAVIT_RETURN_IF_ERROR(mapping.PrepareChild());
  return launch;
}

absl::Status Launch::FailAt(uint32_t op, int error) {
  failure_ = mapping_->FailureAt(static_cast<int32_t>(op), error);
  return failure_.ToStatus();
}

absl::Status Launch::Prepare() {
  Stage& stage = mapping_->stage;
  const std::span<const Op> ops = stage.view.parent_ops();
  uint32_t direct = 0;
  while (direct < ops.size() && (ops[direct].flags & plan::kUser) == 0) ++direct;
  if (RunParentOps(stage, 0, direct) < 0) {
    return FailAt(static_cast<uint32_t>(stage.shared->failed_op), stage.shared->error);
  }
  if (direct == ops.size()) return absl::OkStatus();

  // The helper shares nothing but the progress it makes, and sends at the end what it has opened:
  // when it hangs it can be killed, and whatever it held goes with it.
  DAVIT_ASSIGN_OR_RETURN(auto pair, ReportPair());
  int pidfd = -1;
  clone_args args = {};
  args.flags = CLONE_PIDFD;
  args.pidfd = reinterpret_cast<uint64_t>(&pidfd);
  args.exit_signal = SIGCHLD;
  const long pid = raw::Clone3(args);
  if (pid < 0) return sys::ErrnoStatus(static_cast<int>(-pid), "start the helper for bind sources");
  if (pid == 0) {
    const uint32_t count = mapping_->header().slot_count;
    memcpy(mapping_->child_fds.data(), stage.fds, count * sizeof(int32_t));
    const int32_t* const known = stage.shared->fds;
    stage.fds = mapping_->child_fds.data();
    stage.report = pair.second.get();
    if (!CloseUnnamed(stage)) raw::Exit(1);
    if (RunParentOps(stage, direct, static_cast<uint32_t>(ops.size())) < 0) raw::Exit(1);
    stage.shared->error = -SendSlots(stage.report, stage.fds, known, count);
    raw::Exit(0);
  }
  slots_ = std::move(pair.first);
  helper_pid_ = static_cast<pid_t>(pid);
  helper_pidfd_.reset(pidfd);
  return absl::OkStatus();
}

absl::Status Launch::FinishPrepare() {
  siginfo_t info = {};
  while (waitid(P_PID, static_cast<id_t>(helper_pid_), &info, WEXITED) != 0 && errno == EINTR) {
  }
  helper_pidfd_.reset();
  helper_pid_ = -1;
  const sys::UniqueFd slots = std::move(slots_);
  Stage& stage = mapping_->stage;
  const Shared& shared = *stage.shared;
  if (shared.failed_op >= 0) return FailAt(static_cast<uint32_t>(shared.failed_op), shared.error);
  if (shared.parent_done < mapping_->header().parent_count) {
    // It was killed: the operation it was in is the one that hung.
    return FailAt(static_cast<uint32_t>(shared.current_op), ETIMEDOUT);
  }
  int error = shared.error;
  if (error == 0) error = -ReceiveSlots(slots.get(), stage.fds, mapping_->header().slot_count);
  if (error == 0) return absl::OkStatus();
  return FailAt(mapping_->header().parent_count - 1, error);
}

absl::Status Launch::Clone() {
  Stage& stage = mapping_->stage;
  const plan::Header& header = mapping_->header();
  DAVIT_ASSIGN_OR_RETURN(auto report, ReportPair());

  // The process works on its own copy: the slots in shared memory are emptied as soon as it is
  // there.
  memcpy(mapping_->child_fds.data(), stage.fds, header.slot_count * sizeof(int32_t));
  int pidfd = -1;
  clone_args args = {};
  args.flags = header.clone_flags | CLONE_PIDFD;
  args.pidfd = reinterpret_cast<uint64_t>(&pidfd);
  args.exit_signal = SIGCHLD;
  if (header.clone_cgroup >= 0) {
    args.flags |= CLONE_INTO_CGROUP;
    args.cgroup = static_cast<uint64_t>(stage.fds[header.clone_cgroup]);
  }
  long pid;
  {
    PidNamespaceForChildren children;
    if (header.pid_namespace >= 0) {
      DAVIT_RETURN_IF_ERROR(children.Enter(stage.fds[header.pid_namespace]));
    }
    pid = raw::Clone3(args);
    if (pid == 0) {
      stage.fds = mapping_->child_fds.data();
      stage.report = report.second.get();
      raw::Close(report.first.get());
      RunChild(stage);
    }
  }
  if (pid < 0) {
    failure_ = {.operation = "clone", .object = "", .error_number = static_cast<int>(-pid)};
    return failure_.ToStatus();
  }
  pid_ = static_cast<pid_t>(pid);
  pidfd_.reset(pidfd);
  report_ = std::move(report.first);
  report.second.reset();
  if (header.clones_again != 0) DAVIT_RETURN_IF_ERROR(TakeSecond());

  rootfs_clone_.reset(header.rootfs_clone >= 0 ? std::exchange(stage.fds[header.rootfs_clone], -1)
                                               : -1);
  CloseSlots();
  return absl::OkStatus();
}

// The first process ends as soon as the second is there: microseconds.
absl::Status Launch::TakeSecond() {
  siginfo_t info = {};
  while (waitid(P_PID, static_cast<id_t>(pid_), &info, WEXITED) != 0 && errno == EINTR) {
  }
  pidfd_.reset();
  pid_ = -1;
  const Shared& shared = *mapping_->stage.shared;
  if (shared.second_pid <= 0) {
    failure_ = mapping_->FailureAt(shared.failed_op >= 0 ? shared.failed_op : shared.current_op,
                                   shared.error);
    report_.reset();
    return failure_.ToStatus();
  }
  pid_ = shared.second_pid;
  pidfd_.reset(raw::PidfdOpen(pid_));
  return absl::OkStatus();
}

Event Launch::Read() {
  if (!report_.ok()) return Event::kNothing;
  for (;;) {
    char what = 0;
    iovec data = {&what, 1};
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
    msghdr message = {};
    message.msg_iov = &data;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof(control);
    const ssize_t received = recvmsg(report_.get(), &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (received < 0 && errno == EINTR) continue;
    if (received < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return Event::kNothing;
    sys::UniqueFd fd;
    if (const cmsghdr* header = CMSG_FIRSTHDR(&message);
        received > 0 && header != nullptr && header->cmsg_type == SCM_RIGHTS) {
      int number;
      memcpy(&number, CMSG_DATA(header), sizeof(number));
      fd.reset(number);
    }
    const Shared& shared = *mapping_->stage.shared;
    if (received == 1 && what == kTellCreated) return Event::kCreated;
    if (received == 1 && what == kTellConsole) {
      console_ = std::move(fd);
      continue;
    }
    if (received == 1 && what == kTellRootfs) {
      rootfs_clone_ = std::move(fd);
      continue;
    }
    // Failed, or the end of the stream: execve has closed it, or death has.
    report_.reset();
    mapping_->shared_file.reset();
    if (shared.failed_op < 0 && shared.executing != 0) return Event::kRunning;
    const int32_t op = shared.failed_op >= 0 ? shared.failed_op : shared.current_op;
    const int error = shared.failed_op >= 0 ? shared.error : 0;
    failure_ =
        carried_ != nullptr ? carried_->FailureAt(op, error) : mapping_->FailureAt(op, error);
    return Event::kFailed;
  }
}

absl::Status Launch::Start() {
  const char byte = 'S';
  if (send(report_.get(), &byte, 1, MSG_NOSIGNAL) != 1) {
    return sys::ErrnoStatus(errno, "tell the container to start");
  }
  return absl::OkStatus();
}

int Launch::cgroup_fd() const {
  if (carried_ != nullptr) return carried_->cgroup.get();
  const int32_t slot = mapping_->header().clone_cgroup;
  return slot < 0 ? -1 : mapping_->stage.fds[slot];
}

void Launch::CloseSlots() {
  Stage& stage = mapping_->stage;
  if (stage.shared == nullptr || carried_ != nullptr) return;
  const plan::Header& header = mapping_->header();
  for (int32_t slot = 0; slot < static_cast<int32_t>(header.slot_count); ++slot) {
    if (slot < plan::kExternalSlots) {
      stage.fds[slot] = -1;  // the creator's
    } else if (pid_ < 0 || slot != header.clone_cgroup) {
      stage.Drop(slot);
    }
  }
}

absl::Status Launch::Undo() {
  if (carried_ != nullptr) return carried_->Undo();
  CloseSlots();
  if (const int32_t slot = mapping_->header().clone_cgroup; slot >= 0) mapping_->stage.Drop(slot);
  return mapping_->Undo();
}

absl::Status Launch::UndoPlan(int plan_fd) {
  Mapping mapping;
  DAVIT_RETURN_IF_ERROR(mapping.LoadPlan(plan_fd));
  const std::span<const Op> ops = mapping.stage.view.parent_ops();
  for (size_t i = 0; i < ops.size(); ++i) {
    const bool existing = (ops[i].flags & plan::kExisting) != 0;
    mapping.stage.traces[i] = {
        .nanoseconds = 0, .done = 1, .made = static_cast<uint16_t>(existing ? 0 : 1)};
  }
  return mapping.Undo();
}

absl::StatusOr<LaunchState> Launch::Save() const {
  LaunchState state;
  state.shared_layout = kSharedLayout;
  state.report = report_.get();
  state.shared = report_.ok() ? mapping_->shared_file.get() : -1;
  state.rootfs_clone = rootfs_clone_.get();
  state.cgroup = cgroup_fd();
  if (carried_ != nullptr) {
    state.groups = carried_->groups;
    if (report_.ok()) state.steps = carried_->steps;
    return state;
  }
  if (helper_pidfd_.ok() || pid_ < 0) {
    return absl::FailedPreconditionError("the process does not exist yet");
  }
  const std::span<const Op> ops = mapping_->stage.view.parent_ops();
  for (size_t i = 0; i < ops.size(); ++i) {
    const Trace& trace = mapping_->stage.traces[i];
    if (ops[i].code != plan::Code::kMakeCgroup || trace.done == 0 || trace.made == 0) continue;
    state.groups.push_back({mapping_->Object(ops[i]), trace.made});
  }
  if (!report_.ok()) return state;
  // Of the operations, those are left that come after the one that waits for Start.
  const plan::Header& header = mapping_->header();
  const uint32_t end = header.parent_count + header.child_count;
  uint32_t first = header.parent_count;
  while (first < end && mapping_->OpAt(first).code != plan::Code::kReady) ++first;
  for (uint32_t i = first; i < end; ++i) {
    const Op& op = mapping_->OpAt(i);
    state.steps.push_back({static_cast<int32_t>(i), OpName(op.code), mapping_->Object(op)});
  }
  return state;
}

absl::StatusOr<std::unique_ptr<Launch>> Launch::Restore(LaunchState state) {
  std::unique_ptr<Launch> launch(new Launch());
  launch->carried_ = std::make_unique<Carried>();
  launch->report_.reset(state.report);
  launch->mapping_->shared_file.reset(state.shared);
  launch->rootfs_clone_.reset(state.rootfs_clone);
  launch->carried_->cgroup.reset(state.cgroup);
  launch->carried_->groups = std::move(state.groups);
  launch->carried_->steps = std::move(state.steps);
  if (!launch->report_.ok()) return launch;
  if (state.shared_layout != kSharedLayout) {
    return absl::FailedPreconditionError(absl::StrCat(
        "a container waits to be started by a davit-pod whose shared memory has layout ",
        state.shared_layout, "; this one reads ", kSharedLayout));
  }
  Map& shared = launch->mapping_->shared;
  DAVIT_RETURN_IF_ERROR(shared.Shared(launch->mapping_->shared_file.get(), sizeof(Shared)));
  launch->mapping_->stage.shared = reinterpret_cast<Shared*>(shared.data());
  return launch;
}

std::vector<Timing> Launch::Timings() const {
  std::vector<Timing> timings;
  if (carried_ != nullptr) return timings;
  const plan::Header& header = mapping_->header();
  for (uint32_t i = 0; i < header.parent_count + header.child_count; ++i) {
    const Trace& trace = mapping_->stage.traces[i];
    if (trace.nanoseconds == 0 && trace.done == 0) continue;
    const Op& op = mapping_->OpAt(i);
    timings.push_back({OpName(op.code), mapping_->Object(op), trace.nanoseconds});
  }
  return timings;
}

}  // namespace davit::runtime::stage

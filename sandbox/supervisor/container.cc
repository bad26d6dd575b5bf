#include "sandbox/supervisor/container.h"

#include <fcntl.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "runtime/sys/errno.h"
#include "runtime/sys/file.h"
#include "sandbox/supervisor/disposal.h"

namespace davit::sandbox {
namespace {

using runtime::plan::Slot;
using supervisor::v1::ContainerState;
using supervisor::v1::CreateContainer;
using supervisor::v1::Error;

constexpr absl::Duration kDefaultCreateTimeout = absl::Seconds(120);
// How long an exit waits for output that a process outside the container may still be adding to.
constexpr absl::Duration kDrainTimeout = absl::Seconds(1);
constexpr absl::Duration kReleasePatience = absl::Seconds(5);
// After SIGKILL. What does not end by then hangs in the kernel, on a dead disk or network.
constexpr absl::Duration kKillPatience = absl::Seconds(10);
constexpr int kStartErrorStatus = 128 << 8;  // exit code 128, as peers report it

struct Pipe {
  sys::UniqueFd reader, writer;
};

absl::StatusOr<Pipe> MakePipe() {
  int fds[2];
  if (pipe2(fds, O_CLOEXEC) != 0) return sys::ErrnoStatus(errno, "make a pipe for stdio");
  return Pipe{sys::UniqueFd(fds[0]), sys::UniqueFd(fds[1])};
}

}  // namespace

int64_t NowNanoseconds() {
  timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  return int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}

void SetError(const absl::Status& status, Error* error) {
  error->set_code(static_cast<int>(status.code()));
  error->set_message(MessageOf(status));
}

Container::Container(const PodTools& tools, std::string id, Observer observer)
    : tools_(tools),
      observer_(std::move(observer)),
      session_(tools.loop, tools.reaper, this),
      cgroup_(tools.loop) {
  state_.set_container_id(std::move(id));
  state_.set_phase(ContainerState::CREATING);
}

Container::~Container() {
  if (kill_timer_ != 0) tools_.loop->Cancel(kill_timer_);
  if (log_ != nullptr) tools_.log_writer->Close(log_, nullptr);
}

// ---- creation

void Container::Create(const CreateContainer& request, std::vector<sys::UniqueFd> fds,
                       int pid_namespace, Done done) {
  create_done_ = std::move(done);
  if (absl::Status status = Prepare(request, std::move(fds), pid_namespace); !status.ok()) {
    Error error;
    SetError(status, &error);
    if (launched_) return AbandonCreation(std::move(error));
    ended_ = true;
    std::exchange(create_done_, nullptr)(&error);
  }
}

// A creation up to the launch.
struct Container::Creation {
  const CreateContainer& request;
  std::vector<sys::UniqueFd> fds;
  const int pid_namespace;
  runtime::stage::ExternalFds external;
  std::vector<sys::UniqueFd> held;  // what `external` refers to and nobody else holds
  LogWriter::Streams streams;
};

const Container::CreateOperation& Container::CreateSteps() {
  static const CreateOperation steps(
      "set up container", {{"check the request", &Container::CheckRequest, sys::StepKind::kRequest},
                           {"open its status record", &Container::OpenRecord},
                           {"collect its descriptors", &Container::Collect},
                           {"make its stdio", &Container::MakeStdio},
                           {"open its log", &Container::BeginLog},
                           {"launch it", &Container::BeginLaunch}});
  return steps;
}

const Container::FinishOperation& Container::FinishSteps() {
  static const FinishOperation steps("finish container",
                                     {{"watch its memory", &Container::WatchMemory},
                                      {"write its status record", &Container::RecordCreation}});
  return steps;
}

std::vector<sys::OperationSteps> Container::Steps() {
  return {CreateSteps().Names(), FinishSteps().Names()};
}

absl::Status Container::Prepare(const CreateContainer& request, std::vector<sys::UniqueFd> fds,
                                int pid_namespace) {
  if (const auto order = sys::ParseFaultOrder(request.fault()); order.ok()) {
    faults_.emplace(sys::Faults::Only(*order));
  }
  Creation creation{request, std::move(fds), pid_namespace, {}, {}, {}};
  return CreateSteps().Run(this, faults(), &creation);
}

absl::Status Container::CheckRequest(Creation* creation) {
  const size_t count = creation->fds.size();
  if (count == (creation->request.has_seccomp() ? 2u : 1u)) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(count, " descriptors came with it"));
}

absl::Status Container::OpenRecord(Creation* creation) {
  DAVIT_ASSIGN_OR_RETURN(record_,
                         StatusWriter::Open(creation->request.container_dir() + "/status"));
  return absl::OkStatus();
}

absl::Status Container::Collect(Creation* creation) {
  runtime::stage::ExternalFds& external = creation->external;
  external[Slot::kPodMountNamespace] = tools_.pod->mount_namespace.get();
  external[Slot::kUserNamespace] = tools_.pod->user_namespace.get();
  if (creation->request.has_seccomp()) external[Slot::kSeccompProgram] = creation->fds[1].get();
  if (creation->pid_namespace < 0) return absl::OkStatus();
  // A copy: whose it is may be gone before the process is made.
  sys::UniqueFd member(fcntl(creation->pid_namespace, F_DUPFD_CLOEXEC, 3));
  if (!member.ok()) return sys::ErrnoStatus(errno, "copy the PID namespace's member");
  external[Slot::kPidNamespace] = member.get();
  creation->held.push_back(std::move(member));
  return absl::OkStatus();
}

absl::Status Container::BeginLog(Creation* creation) {
  log_path_ = creation->request.log_path();
  // That of a terminal when there is one.
  if (!creation->request.tty()) OpenLog(log_path_, std::move(creation->streams));
  return absl::OkStatus();
}

absl::Status Container::BeginLaunch(Creation* creation) {
  const uint32_t timeout = creation->request.timeout_ms();
  for (size_t i = 1; i < creation->fds.size(); ++i) {
    creation->held.push_back(std::move(creation->fds[i]));
  }
  launched_ = true;
  session_.Begin(std::move(creation->fds[0]), creation->external, std::move(creation->held),
                 timeout > 0 ? absl::Milliseconds(timeout) : kDefaultCreateTimeout);
  return absl::OkStatus();
}

// A terminal is made by the plan, in the container's own devpts.
absl::Status Container::MakeStdio(Creation* creation) {
  if (creation->request.tty()) return absl::OkStatus();
  sys::UniqueFd in;
  if (creation->request.stdin()) {
    DAVIT_ASSIGN_OR_RETURN(Pipe pipe, MakePipe());
    stdin_ = std::move(pipe.writer);
    in = std::move(pipe.reader);
  } else {
    DAVIT_ASSIGN_OR_RETURN(in, sys::OpenAt(AT_FDCWD, "/dev/null", O_RDWR));
  }
  DAVIT_ASSIGN_OR_RETURN(Pipe out, MakePipe());
  DAVIT_ASSIGN_OR_RETURN(Pipe err, MakePipe());
  creation->streams.out = std::move(out.reader);
  creation->streams.err = std::move(err.reader);
  creation->external[Slot::kStdin] = in.get();
  creation->external[Slot::kStdout] = out.writer.get();
  creation->external[Slot::kStderr] = err.writer.get();
  for (sys::UniqueFd* fd : {&in, &out.writer, &err.writer}) {
    creation->held.push_back(std::move(*fd));
  }
  return absl::OkStatus();
}

void Container::OpenLog(const std::string& path, LogWriter::Streams streams) {
  log_ = tools_.log_writer->Open(
      path, std::move(streams),
      [this, alive = std::weak_ptr<bool>(alive_)](int error) {
        if (alive.expired()) return;
        if (error != 0) {
          Error failure;
          SetError(sys::ErrnoStatus(error, absl::StrCat("open the log ", log_path_)), &failure);
          failure.set_error_number(error);
          return AbandonCreation(std::move(failure));
        }
        log_open_ = true;
        FinishCreation();
      },
      [this, alive = std::weak_ptr<bool>(alive_)](const LogHealth& health) {
        if (!alive.expired()) OnLogHealth(health);
      });
}

void Container::OnLogHealth(const LogHealth& health) {
  auto* log = state_.mutable_log();
  log->set_error_number(health.error);
  log->set_dropped_lines(health.dropped_lines);
  log->set_dropped_bytes(health.dropped_bytes);
  // Not in the record at once: it is no reason to touch a disk, and goes there with the next state.
  observer_.log_changed(this);
}

void Container::OnCreated() {
  process_created_ = true;
  console_ = session_.launch()->TakeConsole();
  if (log_ == nullptr) {
    LogWriter::Streams streams;
    streams.tty = true;
    streams.out.reset(fcntl(console_.get(), F_DUPFD_CLOEXEC, 3));
    if (!streams.out.ok()) {
      Error error;
      SetError(absl::InvalidArgumentError("a terminal was asked for, but the plan makes none"),
               &error);
      return AbandonCreation(std::move(error));
    }
    return OpenLog(log_path_, std::move(streams));
  }
  FinishCreation();
}

void Container::FinishCreation() {
  if (!process_created_ || !log_open_ || abandoned_ || create_done_ == nullptr) return;
  const absl::Status finished = FinishSteps().Run(this, faults());
  if (!finished.ok()) {
    // It never came to be created: its end is that of the creation.
    state_.set_phase(ContainerState::CREATING);
    Error error;
    SetError(finished, &error);
    return AbandonCreation(std::move(error));
  }
  std::exchange(create_done_, nullptr)(nullptr);
}

absl::Status Container::WatchMemory() {
  cgroup_.Open(session_.facts().cgroups);
  return cgroup_.Start([this] {
    if (ended_ || state_.oom_killed()) return;  // the exit tells it
    state_.set_oom_killed(true);
    WriteRecord();
    observer_.out_of_memory(this);
  });
}

absl::Status Container::RecordCreation() {
  state_.set_phase(ContainerState::CREATED);
  state_.set_pid(session_.pid());
  state_.set_created_at(NowNanoseconds());
  return record_.Write(state_);
}

// Goes on in OnFailed or OnExited, when the process is gone.
void Container::AbandonCreation(Error error) {
  if (abandoned_ || create_done_ == nullptr) return;
  abandoned_ = true;
  creation_error_ = std::move(error);
  if (ended_) return;
  session_.KillAll();
}

void Container::UndoCreation() {
  ended_ = true;
  cgroup_.Stop();
  if (log_ != nullptr) tools_.log_writer->Close(std::exchange(log_, nullptr), nullptr);
  ReleaseRootfs([this] {
    session_.Undo(kReleasePatience, [this](const absl::Status& status) {
      if (!status.ok()) {
        creation_error_.mutable_message()->append("; and then: " + MessageOf(status));
      }
      std::exchange(create_done_, nullptr)(&creation_error_);
      FinishRemoval(absl::OkStatus());
    });
  });
}

void Container::OnFailed(const Session::Failed& failed) {
  if (state_.phase() == ContainerState::CREATED) {
    // No operation failed: it was killed while it waited, or before its command ran.
    if (failed.error_number == 0) return OnExited(failed.wait_status);
    FillError(failed, &start_error_);
    state_.set_start_errno(failed.error_number);
    state_.set_message(start_error_.message());
    return Ended(kStartErrorStatus);
  }
  if (!abandoned_) {
    abandoned_ = true;
    FillError(failed, &creation_error_);
  }
  UndoCreation();
}

// ---- the running container

void Container::Start(Done done) {
  absl::Status status = absl::OkStatus();
  if (state_.phase() != ContainerState::CREATED || start_done_ != nullptr) {
    status = absl::FailedPreconditionError(absl::StrCat(
        "start container ", id(), ": it is ",
        start_done_ != nullptr ? "being started" : ContainerState::Phase_Name(state_.phase())));
  } else {
    status = session_.Start();
  }
  if (!status.ok()) {
    Error error;
    SetError(status, &error);
    return done(&error);
  }
  start_done_ = std::move(done);
}

void Container::OnRunning() {
  state_.set_phase(ContainerState::RUNNING);
  state_.set_started_at(NowNanoseconds());
  WriteRecord();
  if (start_done_ != nullptr) std::exchange(start_done_, nullptr)(nullptr);
}

absl::Status Container::Kill(int signal, bool all) {
  if (ended_) return absl::OkStatus();
  if (!all) return session_.Signal(signal);
  session_.KillAll();
  return cgroup_.KillAll();
}

void Container::ReopenLog(Done done) {
  if (log_ == nullptr || state_.phase() != ContainerState::RUNNING) {
    Error error;
    SetError(absl::FailedPreconditionError(
                 absl::StrCat("reopen the log of container ", id(), ": it is not running")),
             &error);
    return done(&error);
  }
  tools_.log_writer->Reopen(log_, [path = log_path_, done = std::move(done)](int error_number) {
    if (error_number == 0) return done(nullptr);
    Error error;
    SetError(sys::ErrnoStatus(error_number, absl::StrCat("reopen the log ", path)), &error);
    error.set_error_number(error_number);
    done(&error);
  });
}

// ---- the end

void Container::OnExited(int wait_status) {
  if (state_.phase() == ContainerState::CREATING) {
    if (!abandoned_) {
      abandoned_ = true;
      SetError(absl::InternalError("the process ended while it was being set up"),
               &creation_error_);
    }
    return UndoCreation();
  }
  if (start_done_ != nullptr) {
    SetError(absl::FailedPreconditionError(
                 absl::StrCat("start container ", id(), ": it was killed before its command ran")),
             &start_error_);
  }
  Ended(wait_status);
}

void Container::Ended(int wait_status) {
  ended_ = true;
  // Its PID namespace, where it has one, has already killed everything else.
  if (!session_.facts().new_pid_namespace) cgroup_.KillAll().IgnoreError();
  const bool oom_untold = cgroup_.OomKills() > 0 && !state_.oom_killed();
  if (oom_untold) state_.set_oom_killed(true);
  // The kubelet may remove the group before it removes the container, and the event file of a
  // removed group is ready for ever.
  cgroup_.Stop();
  state_.set_phase(ContainerState::EXITED);
  state_.set_pid(0);
  state_.set_wait_status(wait_status);
  state_.set_finished_at(NowNanoseconds());
  // Before the log is drained: if this process is lost meanwhile, the exit code is not.
  WriteRecord();
  if (oom_untold) observer_.out_of_memory(this);
  stdin_.reset();
  console_.reset();
  if (log_ == nullptr) return TellExit();
  tools_.log_writer->Finish(log_, kDrainTimeout, [this, alive = std::weak_ptr<bool>(alive_)](int) {
    if (!alive.expired()) TellExit();
  });
}

void Container::TellExit() {
  exit_told_ = true;
  observer_.exited(this);
  if (start_done_ != nullptr) std::exchange(start_done_, nullptr)(&start_error_);
  if (!removers_.empty()) ReleaseAfterExit();
}

void Container::WriteRecord() {
  // The space is reserved: what could still fail here is the disk itself, and then the state is
  // told to whoever is connected all the same.
  record_.Write(state_).IgnoreError();
}

// ---- removal

void Container::Remove(Done done) {
  removers_.push_back(std::move(done));
  if (removers_.size() > 1) return;
  if (create_done_ != nullptr) {
    Error error;
    SetError(
        absl::CancelledError(absl::StrCat("create container ", id(), ": it was removed meanwhile")),
        &error);
    return AbandonCreation(std::move(error));
  }
  if (exit_told_) return ReleaseAfterExit();
  Kill(SIGKILL, true).IgnoreError();
  kill_timer_ = tools_.loop->After(kKillPatience, [this] {
    kill_timer_ = 0;
    FinishRemoval(absl::DeadlineExceededError(
        absl::StrCat("remove container ", id(), ": process ", session_.pid(),
                     " does not end after SIGKILL; it may hang on a disk or network")));
  });
}

void Container::ReleaseAfterExit() {
  if (releasing_) return;
  releasing_ = true;
  if (kill_timer_ != 0) tools_.loop->Cancel(std::exchange(kill_timer_, 0));
  cgroup_.KillAll().IgnoreError();
  if (log_ != nullptr) tools_.log_writer->Close(std::exchange(log_, nullptr), nullptr);
  ReleaseRootfs([this] { ReleaseCgroups(); });
}

void Container::ReleaseRootfs(std::function<void()> done) {
  sys::UniqueFd rootfs;
  if (session_.launch() != nullptr) rootfs = session_.launch()->TakeRootfsClone();
  CloseInChild(tools_.loop, tools_.reaper, std::move(rootfs), kReleasePatience,
               [alive = std::weak_ptr<bool>(alive_), done = std::move(done)] {
                 if (!alive.expired()) done();
               });
}

void Container::ReleaseCgroups() {
  if (!leftovers_.empty()) {
    leftovers_.back()->Undo(kReleasePatience, [this](const absl::Status&) {
      // A leaf that stays makes the container's own group stay, which is then the error.
      tools_.loop->After(absl::ZeroDuration(), [this] {
        leftovers_.pop_back();
        ReleaseCgroups();
      });
    });
    return;
  }
  session_.Undo(kReleasePatience, [this](const absl::Status& status) {
    if (status.ok()) cgroup_.Stop();
    FinishRemoval(sys::Annotate(status, absl::StrCat("remove container ", id())));
  });
}

void Container::SweepLeftovers() {
  if (releasing_) return;
  std::erase_if(leftovers_, [](const std::unique_ptr<Session>& exec) {
    bool gone = false;
    exec->Undo(absl::ZeroDuration(), [&gone](const absl::Status& status) { gone = status.ok(); });
    return gone;
  });
}

void Container::FinishRemoval(const absl::Status& status) {
  releasing_ = false;
  std::vector<Done> removers = std::move(removers_);
  removers_.clear();
  Error error;
  SetError(status, &error);
  for (const Done& done : removers) done(status.ok() ? nullptr : &error);
}

}  // namespace davit::sandbox

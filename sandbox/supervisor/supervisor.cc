#include "sandbox/supervisor/supervisor.h"

#include <fcntl.h>
#include <malloc.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "runtime/plan/plan.h"
#include "runtime/sys/errno.h"
#include "runtime/sys/spawn.h"
#include "sandbox/supervisor/hello_page.h"

namespace davit::sandbox {
namespace {

using supervisor::v1::ContainerState;
using supervisor::v1::Error;
using supervisor::v1::FromSupervisor;
using supervisor::v1::PodConfig;
using supervisor::v1::Reply;
using supervisor::v1::ToSupervisor;

constexpr uint32_t kProtocolVersion = 1;
constexpr absl::Duration kTrimDelay = absl::Milliseconds(200);

LogWriter::Options LogOptions(const PodConfig& config) {
  LogWriter::Options options;
  if (config.log_max_line() > 0) options.max_line = config.log_max_line();
  if (config.log_buffer_size() > 0) options.buffer_size = config.log_buffer_size();
  options.drop_when_full = config.log_drop_when_full();
  return options;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Supervisor>> Supervisor::Start(PodConfig config,
                                                              Inheritance inheritance) {
  std::unique_ptr<Supervisor> supervisor(new Supervisor(std::move(config)));
  DAVIT_RETURN_IF_ERROR(supervisor->SetUp(std::move(inheritance)));
  return supervisor;
}

const Supervisor::SetUpOperation& Supervisor::SetUpSteps() {
  static const SetUpOperation steps(
      "set up supervisor", {{"become a subreaper", &Supervisor::BecomeReaper},
                            // Namespaces first: the writer thread has to be a member, too.
                            {"set up the pod", &Supervisor::MakePod, sys::StepKind::kRequest},
                            {"watch the pod's init", &Supervisor::WatchInit},
                            {"start the log writer", &Supervisor::StartLogWriter},
                            // Last: from here on the pod answers.
                            {"serve", &Supervisor::Serve}});
  return steps;
}

std::vector<sys::OperationSteps> Supervisor::Steps() {
  std::vector<sys::OperationSteps> steps = {SetUpSteps().Names(), PodSetupSteps()};
  for (sys::OperationSteps& more : Container::Steps()) steps.push_back(std::move(more));
  return steps;
}

absl::Status Supervisor::SetUp(Inheritance inheritance) {
  if (const auto order = sys::ParseFaultOrder(config_.fault()); order.ok()) {
    faults_.emplace(sys::Faults::Only(*order));
  }
  return SetUpSteps().Run(this, faults(), &inheritance);
}

absl::Status Supervisor::BecomeReaper(Inheritance*) {
  if (prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0) return sys::ErrnoStatus(errno, "prctl");
  DAVIT_ASSIGN_OR_RETURN(loop_, EventLoop::Create());
  DAVIT_ASSIGN_OR_RETURN(reaper_, ChildReaper::Create(loop_.get()));
  return absl::OkStatus();
}

absl::Status Supervisor::MakePod(Inheritance* inheritance) {
  DAVIT_ASSIGN_OR_RETURN(pod_, SetUpPod(config_, inheritance->init_program.get(), faults()));
  return absl::OkStatus();
}

absl::Status Supervisor::WatchInit(Inheritance*) {
  if (pod_.init_pid == 0) return absl::OkStatus();
  return reaper_->Await(pod_.init_pid, pod_.init_pidfd.get(), [this](int) {
    pod_.init_pid = 0;
    if (std::exchange(awaiting_init_, false)) FinishShutdown();
  });
}

absl::Status Supervisor::StartLogWriter(Inheritance*) {
  DAVIT_ASSIGN_OR_RETURN(log_writer_, LogWriter::Start(LogOptions(config_)));
  return loop_->Watch(log_writer_->completion_fd(), EPOLLIN,
                      [this](uint32_t) { log_writer_->RunCompletions(); });
}

absl::Status Supervisor::Serve(Inheritance* inheritance) {
  tools_ = PodTools{loop_.get(), reaper_.get(), log_writer_.get(), &pod_};
  DAVIT_ASSIGN_OR_RETURN(
      server_, ProtocolServer::Start(loop_.get(), this, config_.pod_dir() + "/supervisor.sock",
                                     std::move(inheritance->connection)));
  TrimSoon();
  return absl::OkStatus();
}

Supervisor::~Supervisor() {
  // What refers to the loop goes before it.
  server_.reset();
  execs_.clear();
  containers_.clear();
  if (log_writer_ != nullptr) loop_->Unwatch(log_writer_->completion_fd());
}

void Supervisor::Run() { loop_->Run(); }

// ---- requests

void Supervisor::OnRequest(ConnectionId connection, const ToSupervisor& request, Fds fds) {
  const Origin origin{connection, request.request_id()};
  switch (request.request_case()) {
    case ToSupervisor::kHello:
      return Hello(origin, request.hello());
    case ToSupervisor::kCreateContainer:
      return CreateContainer(origin, request.create_container(), std::move(fds));
    case ToSupervisor::kStartContainer:
      return StartContainer(origin, request.start_container());
    case ToSupervisor::kKillContainer:
      return KillContainer(origin, request.kill_container());
    case ToSupervisor::kRemoveContainer:
      return RemoveContainer(origin, request.remove_container());
    case ToSupervisor::kExec:
      return StartExec(origin, request.exec(), std::move(fds));
    case ToSupervisor::kReopenLog:
      return ReopenLog(origin, request.reopen_log());
    case ToSupervisor::kShutdown:
      return Shutdown(origin);
    case ToSupervisor::kCancelExec:
      return CancelExec(origin, request.cancel_exec());
    case ToSupervisor::REQUEST_NOT_SET:
      break;
  }
  AnswerError(origin, absl::UnimplementedError("the supervisor does not know this request"));
}

// Nobody is left to take the output or to enforce a limit.
void Supervisor::OnDisconnected(ConnectionId connection) {
  for (auto& [id, running] : execs_) {
    if (running.connection == connection) running.exec->Cancel();
  }
}

void Supervisor::Hello(Origin origin, const supervisor::v1::Hello& request) {
  Reply reply;
  auto* hello = reply.mutable_hello();
  hello->set_protocol_version(kProtocolVersion);
  hello->set_plan_version(runtime::plan::kPlanVersion);
  hello->set_pid(getpid());
  hello->set_sandbox_id(config_.sandbox_id());
  hello->set_init_pid(pod_.init_pid);
  HelloPage page(request.pages(), hello);
  for (auto it = containers_.upper_bound(request.after_container()); it != containers_.end();
       ++it) {
    if (!page.Add(it->second->state(), it->second->pidfd())) break;
  }
  Answer(origin, std::move(reply), page.TakePidfds());
}

void Supervisor::CreateContainer(Origin origin, const supervisor::v1::CreateContainer& request,
                                 Fds fds) {
  const std::string& id = request.container_id();
  if (!shutdown_.empty()) {
    return AnswerError(origin, absl::FailedPreconditionError("the pod is shutting down"));
  }
  if (id.empty() || request.container_dir().empty() || request.container_dir()[0] != '/') {
    return AnswerError(origin,
                       absl::InvalidArgumentError("create container: no id or no directory"));
  }
  if (Find(id) != nullptr) {
    return AnswerError(origin, absl::AlreadyExistsError(absl::StrCat("container ", id, " exists")));
  }
  if (config_.shared_pid_namespace() && pod_.init_pid == 0) {
    return AnswerError(
        origin, absl::FailedPreconditionError("the init of the pod's PID namespace was killed"));
  }
  int pid_namespace = pod_.init_pidfd.get();
  if (!request.pid_target().empty()) {
    const Container* target = Find(request.pid_target());
    if (target == nullptr || target->state().phase() != ContainerState::RUNNING) {
      return AnswerError(origin, absl::FailedPreconditionError(
                                     absl::StrCat("create container: target container ",
                                                  request.pid_target(), " does not run")));
    }
    pid_namespace = target->pidfd();
  }
  Container::Observer observer;
  observer.exited = [this](Container* container) {
    FromSupervisor event;
    *event.mutable_container_exited()->mutable_state() = container->state();
    server_->SendEvent(event);
    TrimSoon();
  };
  observer.out_of_memory = [this](Container* container) {
    FromSupervisor event;
    event.mutable_out_of_memory()->set_container_id(container->id());
    server_->SendEvent(event);
  };
  observer.log_changed = [this](Container* container) {
    FromSupervisor event;
    event.mutable_log_changed()->set_container_id(container->id());
    *event.mutable_log_changed()->mutable_health() = container->state().log();
    server_->SendEvent(event);
  };
  Container* container =
      (containers_[id] = std::make_unique<Container>(tools_, id, std::move(observer))).get();
  container->Create(
      request, std::move(fds), pid_namespace,
      [this, origin, container, wants_pidfd = request.wants_pidfd()](const Error* error) {
        TrimSoon();
        if (error != nullptr) {
          AnswerError(origin, *error);
          return ForgetContainer(container->id());
        }
        Reply reply;
        reply.mutable_create_container()->set_pid(container->state().pid());
        Fds pidfd;
        if (wants_pidfd) {
          pidfd.emplace_back(fcntl(container->pidfd(), F_DUPFD_CLOEXEC, 3));
          if (!pidfd.back().ok()) pidfd.clear();
        }
        Answer(origin, std::move(reply), std::move(pidfd));
      });
}

void Supervisor::StartContainer(Origin origin, const supervisor::v1::StartContainer& request) {
  Container* container = Find(request.container_id());
  if (container == nullptr) {
    return AnswerError(origin,
                       absl::NotFoundError(absl::StrCat("no container ", request.container_id())));
  }
  container->Start([this, origin, container](const Error* error) {
    if (error != nullptr) return AnswerError(origin, *error);
    Reply reply;
    reply.mutable_start_container()->set_started_at(container->state().started_at());
    Answer(origin, std::move(reply));
  });
}

void Supervisor::KillContainer(Origin origin, const supervisor::v1::KillContainer& request) {
  Container* container = Find(request.container_id());
  if (container == nullptr) {
    return AnswerError(origin,
                       absl::NotFoundError(absl::StrCat("no container ", request.container_id())));
  }
  if (request.signal() < 0 || request.signal() >= NSIG) {
    return AnswerError(origin, absl::InvalidArgumentError(
                                   absl::StrCat("signal ", request.signal(), " does not exist")));
  }
  const absl::Status status = container->Kill(request.signal(), request.all());
  if (!status.ok()) return AnswerError(origin, status);
  Answer(origin);
}

void Supervisor::RemoveContainer(Origin origin, const supervisor::v1::RemoveContainer& request) {
  Container* container = Find(request.container_id());
  if (container == nullptr) return Answer(origin);
  container->Remove([this, origin, id = container->id()](const Error* error) {
    if (error != nullptr) return AnswerError(origin, *error);
    Answer(origin);
    ForgetContainer(id);
  });
}

void Supervisor::ReopenLog(Origin origin, const supervisor::v1::ReopenLog& request) {
  Container* container = Find(request.container_id());
  if (container == nullptr) {
    return AnswerError(origin,
                       absl::NotFoundError(absl::StrCat("no container ", request.container_id())));
  }
  container->ReopenLog(Answerer(origin));
}

// ---- exec

void Supervisor::StartExec(Origin origin, const supervisor::v1::Exec& request, Fds fds) {
  Container* container = Find(request.container_id());
  if (container == nullptr) {
    return AnswerError(origin,
                       absl::NotFoundError(absl::StrCat("no container ", request.container_id())));
  }
  if (container->state().phase() != ContainerState::RUNNING || container->removing()) {
    return AnswerError(origin, absl::FailedPreconditionError(absl::StrCat(
                                   "exec in container ", container->id(), ": it is not running")));
  }
  const std::string& exec_id = request.exec_id();
  if (exec_id.empty() || execs_.contains(exec_id)) {
    return AnswerError(
        origin, absl::AlreadyExistsError(absl::StrCat("exec \"", exec_id, "\": not a new id")));
  }
  Exec::Observer observer;
  observer.started = [this, origin](const Error* error, int pid, sys::UniqueFd console) {
    if (error != nullptr) return AnswerError(origin, *error);
    Reply reply;
    reply.mutable_exec()->set_pid(pid);
    Fds with_it;
    if (console.ok()) with_it.push_back(std::move(console));
    Answer(origin, std::move(reply), std::move(with_it));
  };
  observer.exited = [this, exec_id](int wait_status, bool timed_out) {
    FromSupervisor event;
    event.mutable_exec_exited()->set_exec_id(exec_id);
    event.mutable_exec_exited()->set_wait_status(wait_status);
    event.mutable_exec_exited()->set_timed_out(timed_out);
    server_->SendEvent(event);
  };
  observer.finished = [this, exec_id](std::unique_ptr<Session> leftover) {
    OnExecFinished(exec_id, std::move(leftover));
  };
  RunningExec& running = execs_[exec_id];
  running.container_id = container->id();
  running.connection = origin.connection;
  running.exec = std::make_unique<Exec>(tools_, std::move(observer));
  running.exec->Start(request, std::move(fds), *container);
}

void Supervisor::OnExecFinished(const std::string& exec_id, std::unique_ptr<Session> leftover) {
  auto it = execs_.find(exec_id);
  if (it == execs_.end()) return;
  if (Container* container = Find(it->second.container_id); container != nullptr) {
    container->SweepLeftovers();
    if (leftover != nullptr) container->AdoptLeftover(std::move(leftover));
  }
  // It is calling us.
  std::shared_ptr<Exec> exec(it->second.exec.release());
  execs_.erase(it);
  loop_->After(absl::ZeroDuration(), [exec] {});
  TrimSoon();
}

void Supervisor::CancelExec(Origin origin, const supervisor::v1::CancelExec& request) {
  auto it = execs_.find(request.exec_id());
  if (it != execs_.end()) it->second.exec->Cancel();
  Answer(origin);
}

// ---- shutdown

void Supervisor::Shutdown(Origin origin) {
  shutdown_.push_back(origin);
  if (shutdown_.size() > 1) return;
  shutdown_status_ = absl::OkStatus();
  for (auto& [id, running] : execs_) running.exec->Cancel();
  // All at once, so that they die side by side.
  for (auto& [id, container] : containers_) container->Kill(SIGKILL, true).IgnoreError();
  RemoveNextForShutdown();
}

void Supervisor::RemoveNextForShutdown() {
  if (!containers_.empty() && shutdown_status_.ok()) {
    const std::string id = containers_.begin()->first;
    containers_.begin()->second->Remove([this, id](const Error* error) {
      if (error != nullptr) {
        shutdown_status_ =
            absl::Status(static_cast<absl::StatusCode>(error->code()), error->message());
      } else {
        ForgetContainer(id);
      }
      loop_->After(absl::ZeroDuration(), [this] { RemoveNextForShutdown(); });
    });
    return;
  }
  if (shutdown_status_.ok() && pod_.init_pid != 0) {
    // The last of its PID namespace: the kernel kills what is left there.
    awaiting_init_ = true;
    sys::KillPidfd(pod_.init_pidfd.get(), SIGKILL).IgnoreError();
    return;
  }
  FinishShutdown();
}

void Supervisor::FinishShutdown() {
  if (shutdown_status_.ok() && config_.new_network_namespace()) {
    shutdown_status_ = RemoveNetnsBinding(config_.netns_path());
  }
  for (const Origin& origin : std::exchange(shutdown_, {})) {
    if (shutdown_status_.ok()) {
      Answer(origin);
    } else {
      AnswerError(origin, sys::Annotate(shutdown_status_, "shut the pod down"));
    }
  }
  // With something left that could not be undone, it stays, to be asked again.
  if (shutdown_status_.ok()) server_->FinishSending([this] { loop_->Stop(); });
}

// ---- helpers

Container* Supervisor::Find(const std::string& id) {
  auto it = containers_.find(id);
  return it == containers_.end() ? nullptr : it->second.get();
}

// From within its callbacks, so it is destroyed later.
void Supervisor::ForgetContainer(const std::string& id) {
  auto it = containers_.find(id);
  if (it == containers_.end()) return;
  std::shared_ptr<Container> container(it->second.release());
  containers_.erase(it);
  loop_->After(absl::ZeroDuration(), [container] {});
  TrimSoon();
}

void Supervisor::Answer(Origin origin, Reply reply, Fds fds) {
  reply.set_request_id(origin.request_id);
  server_->Reply(origin.connection, reply, std::move(fds));
}

void Supervisor::AnswerError(Origin origin, const Error& error) {
  Reply reply;
  *reply.mutable_error() = error;
  Answer(origin, std::move(reply));
}

void Supervisor::AnswerError(Origin origin, const absl::Status& status) {
  Error error;
  SetError(status, &error);
  AnswerError(origin, error);
}

Container::Done Supervisor::Answerer(Origin origin) {
  return [this, origin](const Error* error) {
    if (error != nullptr) return AnswerError(origin, *error);
    Answer(origin);
  };
}

void Supervisor::TrimSoon() {
  if (std::exchange(trim_pending_, true)) return;
  loop_->After(kTrimDelay, [this] {
    trim_pending_ = false;
    malloc_trim(0);
  });
}

}  // namespace davit::sandbox

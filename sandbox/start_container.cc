#include <signal.h>

#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "runtime/sys/errno.h"
#include "runtime/sys/utf8.h"
#include "sandbox/container_outcome.h"
#include "sandbox/manager_impl.h"
#include "sandbox/notification.h"

namespace davit::sandbox {
namespace {

constexpr absl::Duration kStartTimeout = absl::Seconds(60);
// The exit of a payload that could not be executed follows its failure at once.
constexpr absl::Duration kExitTimeout = absl::Seconds(5);

bool IsTransportFailure(const absl::Status& status) {
  return absl::IsUnavailable(status) || absl::IsDeadlineExceeded(status);
}

}  // namespace

// A container being started.
struct ManagerImpl::ContainerStart {
  ContainerPtr container;
  std::shared_ptr<SupervisorClient> client;
};

const ManagerImpl::StartOperation& ManagerImpl::StartContainerSteps() {
  static const StartOperation steps(
      "start container", {{"check its state", &ManagerImpl::CheckStart, sys::StepKind::kRequest},
                          {"run its command", &ManagerImpl::RunCommand, sys::StepKind::kRequest}});
  return steps;
}

absl::Status ManagerImpl::StartContainer(const std::string& id) {
  const CallInProgress call(this);
  DAVIT_RETURN_IF_ERROR(call.status());
  ContainerStart start;
  DAVIT_ASSIGN_OR_RETURN(start.container, registry_.FindContainer(id));
  const OperationGate::Pass pass =
      start.container->gate().EnterBlocking(OperationGate::Mode::kExclusive);
  return sys::Annotate(StartContainerSteps().Run(this, options_.faults, &start),
                       absl::StrCat("start container ", start.container->id()));
}

absl::Status ManagerImpl::CheckStart(ContainerStart* start) {
  const ContainerPtr& container = start->container;
  DAVIT_RETURN_IF_ERROR(CheckChange("it", container->phase(), ContainerPhase::kRunning));
  start->client = container->fixed().pod->client();
  if (start->client == nullptr) {
    return absl::UnavailableError("its supervisor cannot be reached");
  }
  return absl::OkStatus();
}

absl::Status ManagerImpl::RunCommand(ContainerStart* start) {
  const ContainerPtr& container = start->container;
  struct Pending {
    Notification done;
    absl::Status status;
  };
  auto pending = std::make_shared<Pending>();
  supervisor::v1::ToSupervisor request;
  request.mutable_start_container()->set_container_id(container->id());
  start->client->Call(std::move(request), {}, kStartTimeout,
                      [container, pending](absl::StatusOr<SupervisorClient::Answer> answer) {
                        pending->status = answer.status();
                        if (answer.ok()) {
                          // Here, on the loop, and not in the waiting thread: the exit of a short
                          // payload may be the next message.
                          pending->status =
                              container->Change(ContainerPhase::kRunning, [&](ContainerView* view) {
                                view->started_at = answer->reply.start_container().started_at();
                              });
                        }
                        pending->done.Notify();
                      });
  pending->done.WaitForNotification();
  // What a dead supervisor left is settled by its loss.
  if (!pending->status.ok() && !IsTransportFailure(pending->status)) {
    StartFailed(container, pending->status);
  }
  return pending->status;
}

void ManagerImpl::StartFailed(const ContainerPtr& container, const absl::Status& why) {
  auto exited = std::make_shared<Notification>();
  container->WhenExited([exited](absl::Status) { exited->Notify(); });
  if (!exited->WaitForNotificationWithTimeout(kExitTimeout)) Signal(container, SIGKILL);
  const auto describe = [&why](ContainerView* view) {
    if (view->started_at != 0) return;  // it ran after all, and ended for a reason of its own
    view->pid = 0;
    view->reason = kReasonStartError;
    view->exit_code = kStartErrorExitCode;
    if (view->finished_at == 0) view->finished_at = NowNanos();
    if (view->message.empty()) view->message = sys::ValidUtf8(why.message());
  };
  if (container->phase() == ContainerPhase::kExited) {
    container->Edit(describe);
  } else {
    container->Change(ContainerPhase::kExited, describe).IgnoreError();
  }
}

}  // namespace davit::sandbox

#include <fcntl.h>
#include <sys/stat.h>

#include <cerrno>
#include <optional>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "runtime/plan/compile.h"
#include "runtime/spec/serialize.h"
#include "runtime/sys/errno.h"
#include "runtime/sys/file.h"
#include "sandbox/exec_template.h"
#include "sandbox/hello.h"
#include "sandbox/manager_impl.h"
#include "sandbox/notification.h"
#include "sandbox/record_conversion.h"
#include "sandbox/records.h"

namespace davit::sandbox {
namespace {

// The supervisor's own limit, which names the path that hangs; ours only guards against a
// supervisor that does not answer at all.
constexpr absl::Duration kCreateTimeout = absl::Seconds(120);
constexpr absl::Duration kAnswerSlack = absl::Seconds(5);
constexpr absl::Duration kRemoveTimeout = absl::Seconds(20);

// Instead of a step, a fault names the number of the plan's operation.
constexpr char kCreatePlanFaults[] = "plan of create container";

// The end of an asynchronous call that this thread waits for.
struct Pending {
  Notification done;
  std::optional<absl::StatusOr<SupervisorClient::Answer>> answer;
};

}  // namespace

// A container on its way; what it holds goes with it unless the container is published.
struct ManagerImpl::ContainerMaking {
  ContainerSpec spec;
  std::string id;
  PodPtr pod;
  OperationGate::Pass pod_pass;
  ContainerPtr container;
  OperationGate::Pass container_pass;
  ContainerNamespaces namespaces;
  std::vector<std::string> lower_dirs;
  std::string root_dir;
  std::shared_ptr<const runtime::seccomp::CachedProgram> seccomp;
  sys::UniqueFd plan;
  std::shared_ptr<Pending> reply;
  Undo undo;  // last: its steps run first, under the gates
};

const ManagerImpl::ContainerOperation& ManagerImpl::CreateContainerSteps() {
  // The bundle is written while the supervisor works. A daemon killed in between finds a container
  // without a record at its next start, and removes it.
  static const ContainerOperation steps(
      "create container",
      {{"check the request", &ManagerImpl::CheckContainer, sys::StepKind::kRequest},
       {"reserve its name", &ManagerImpl::ReserveContainer, sys::StepKind::kRequest},
       {"make its directory", &ManagerImpl::MakeContainerDirectory},
       {"make its writable layer", &ManagerImpl::MakeWritableLayer},
       {"compile its plan", &ManagerImpl::CompileContainer},
       {"send it to its supervisor", &ManagerImpl::SendCreate},
       {"write its config.json", &ManagerImpl::WriteConfigJson},
       {"write its record", &ManagerImpl::WriteNewContainerRecord},
       {"await its supervisor", &ManagerImpl::AwaitCreated, sys::StepKind::kRequest}});
  return steps;
}

absl::StatusOr<std::string> ManagerImpl::CreateContainer(ContainerSpec spec) {
  const CallInProgress call(this);
  DAVIT_RETURN_IF_ERROR(call.status());
  ContainerMaking making;
  making.spec = std::move(spec);
  const absl::Status status = CreateContainerSteps().Run(this, options_.faults, &making);
  if (!status.ok()) {
    return sys::Annotate(status, absl::StrCat("create container \"", making.spec.name_key, "\""));
  }
  registry_.Add(making.container);
  making.undo.Dismiss();
  return making.id;
}

absl::Status ManagerImpl::CheckContainer(ContainerMaking* making) {
  if (making->spec.name_key.empty()) return absl::InvalidArgumentError("it has no name");
  if (!making->spec.spec.process.has_value()) {
    return absl::InvalidArgumentError("it has no process to run");
  }
  DAVIT_ASSIGN_OR_RETURN(making->pod, registry_.FindPod(making->spec.pod_id));
  DAVIT_RETURN_IF_ERROR(EnsureOurPlans(making->pod));
  making->pod_pass = making->pod->gate().EnterBlocking(OperationGate::Mode::kShared);
  if (making->pod->phase() != PodPhase::kReady) {
    return absl::FailedPreconditionError(
        absl::StrCat("pod ", making->pod->id(), " is ", PhaseName(making->pod->phase())));
  }
  DAVIT_ASSIGN_OR_RETURN(const int32_t target_pid, TargetPid(*making->pod, making->spec));
  making->namespaces = {making->spec.pid, target_pid};
  return absl::OkStatus();
}

absl::Status ManagerImpl::ReserveContainer(ContainerMaking* making) {
  making->id = NewId();

  Container::Fixed fixed;
  Container::Holds holds;
  fixed.id = making->id;
  fixed.pod = making->pod;
  DAVIT_ASSIGN_OR_RETURN(holds.name,
                         registry_.container_names().Reserve(making->spec.name_key, making->id));
  DAVIT_ASSIGN_OR_RETURN(holds.pin, images_->PinLayers(making->spec.image_id));
  making->lower_dirs = holds.pin->lower_dirs();
  making->root_dir = holds.pin->root_dir();
  fixed.directory = absl::StrCat(making->pod->fixed().directory, "/containers/", making->id);
  fixed.layer_directory = layers_->DirectoryOf(making->id);

  ContainerView view;
  view.id = making->id;
  view.pod_id = making->pod->id();
  view.image_id = making->spec.image_id;
  view.created_at = NowNanos();
  view.log_path = making->spec.log_path;
  view.bundle_dir = fixed.directory;
  view.cgroup_path = absl::StrCat(making->pod->view()->cgroup_path, "/", making->id);
  view.upper_dir = absl::StrCat(fixed.layer_directory, "/upper");
  view.stop_signal = making->spec.stop_signal;
  view.metadata = making->spec.metadata;
  making->container = std::make_shared<Container>(std::move(fixed), std::move(holds),
                                                  ContainerPhase::kCreating, std::move(view));
  making->container_pass = making->container->gate().EnterBlocking(OperationGate::Mode::kExclusive);
  return absl::OkStatus();
}

absl::Status ManagerImpl::MakeContainerDirectory(ContainerMaking* making) {
  const std::string& directory = making->container->fixed().directory;
  if (mkdir(directory.c_str(), 0711) != 0) {
    return sys::ErrnoStatus(errno, absl::StrCat("make bundle ", directory));
  }
  making->undo.Add([this, directory] {
    ClearAway(directory, [directory] { return sys::RemoveTreeAt(AT_FDCWD, directory); });
  });
  return absl::OkStatus();
}

absl::Status ManagerImpl::MakeWritableLayer(ContainerMaking* making) {
  making->undo.Add([this, id = making->id] {
    ClearAway(absl::StrCat("the writable layer of container ", id),
              [this, id] { return layers_->Remove(id); });
  });
  const Pod::View pod = making->pod->view();
  return layers_->Make(making->id, making->root_dir,
                       {pod->spec.uid_mappings, pod->spec.gid_mappings});
}

absl::StatusOr<int32_t> ManagerImpl::TargetPid(const Pod& pod, const ContainerSpec& spec) const {
  if (spec.pid != NamespaceMode::kTarget) return 0;
  const ContainerPtr target = pod.FindContainer(spec.pid_target);
  if (target == nullptr) {
    return absl::NotFoundError(
        absl::StrCat("target container \"", spec.pid_target, "\" does not exist in the pod"));
  }
  if (target->phase() != ContainerPhase::kRunning) {
    return absl::FailedPreconditionError(
        absl::StrCat("target container ", target->id(), " is ", PhaseName(target->phase())));
  }
  return target->view()->pid;
}

absl::Status ManagerImpl::CompileContainer(ContainerMaking* making) {
  runtime::spec::Spec& spec = making->spec.spec;
  const PodTraits pod = TraitsOf(*making->pod);
  const Container::Fixed& fixed = making->container->fixed();
  CompleteSpec(pod, making->namespaces, making->container->view()->cgroup_path, &spec);
  DAVIT_ASSIGN_OR_RETURN(auto inputs, MakeCreateInputs(node_, pod, making->namespaces, making->id,
                                                       fixed.directory, spec));
  inputs.overlay.emplace();
  inputs.overlay->lower_dirs = making->lower_dirs;
  inputs.overlay->upper_dir = absl::StrCat(fixed.layer_directory, "/upper");
  inputs.overlay->work_dir = absl::StrCat(fixed.layer_directory, "/work");
  inputs.overlay->idmap_lower = !pod.uid_mappings.empty();
  if (spec.linux_.seccomp.has_value()) {
    DAVIT_ASSIGN_OR_RETURN(making->seccomp, seccomp_.Get(*spec.linux_.seccomp));
    inputs.has_seccomp = true;
    inputs.seccomp_flags = making->seccomp->flags;
  }
  auto plan = runtime::plan::CompileCreate(spec, inputs);
  if (!plan.ok()) return plan.status();
  OrderPlanFault(&*plan);
  DAVIT_ASSIGN_OR_RETURN(making->plan, sys::SealedMemfd("davit-plan", plan->blob));
  auto exec = std::make_shared<ExecTemplate>();
  exec->process = *spec.process;
  exec->uid_mappings = spec.linux_.uid_mappings;
  exec->seccomp = making->seccomp;
  making->container->set_exec_template(std::move(exec));
  return absl::OkStatus();
}

absl::Status ManagerImpl::SendCreate(ContainerMaking* making) {
  const auto client = making->pod->client();
  if (client == nullptr) {
    return absl::UnavailableError(
        absl::StrCat("the supervisor of pod ", making->pod->id(), " cannot be reached"));
  }
  supervisor::v1::ToSupervisor request;
  supervisor::v1::CreateContainer* create = request.mutable_create_container();
  create->set_container_id(making->id);
  create->set_container_dir(making->container->fixed().directory);
  create->set_fault(HandOnFault({"set up container", "finish container"}));
  create->set_has_seccomp(making->seccomp != nullptr);
  create->set_log_path(making->spec.log_path);
  create->set_stdin(making->spec.stdin);
  create->set_stdin_once(making->spec.stdin_once);
  create->set_tty(making->spec.tty);
  create->set_wants_pidfd(true);
  create->set_timeout_ms(static_cast<uint32_t>(absl::ToInt64Milliseconds(kCreateTimeout)));
  if (making->spec.pid == NamespaceMode::kTarget) create->set_pid_target(making->spec.pid_target);
  std::vector<int> fds = {making->plan.get()};
  if (making->seccomp != nullptr) fds.push_back(making->seccomp->memfd.get());

  making->undo.Add(
      [this, pod = making->pod, container = making->container] { UndoCreate(pod, container); });
  // In the pod from now on, so that a StopPod finds and kills it.
  making->pod->AddContainer(making->container);
  making->reply = std::make_shared<Pending>();
  client->Call(std::move(request), fds, kCreateTimeout + kAnswerSlack,
               [reply = making->reply,
                container = making->container](absl::StatusOr<SupervisorClient::Answer> answer) {
                 if (answer.ok()) {
                   // Here, on the loop, and not in the waiting thread: a stop may have killed it
                   // already, and its exit, which is told once, may be the next message.
                   const int32_t pid = answer->reply.create_container().pid();
                   if (!answer->fds.empty()) {
                     container->set_pidfd(std::move(answer->fds[0]));
                   } else if (auto pidfd = OpenMember(pid, container->view()->cgroup_path);
                              pidfd.ok()) {
                     container->set_pidfd(std::move(pidfd));
                   }
                   const absl::Status changed = container->Change(
                       ContainerPhase::kCreated, [pid](ContainerView* view) { view->pid = pid; });
                   if (!changed.ok()) answer = changed;
                 }
                 reply->answer.emplace(std::move(answer));
                 reply->done.Notify();
               });
  return absl::OkStatus();
}

void ManagerImpl::UndoCreate(const PodPtr& pod, const ContainerPtr& container) {
  // First out of the pod: a connection that is made from now on has it removed, since nobody knows
  // it (Resync). One that was made before is the pod's.
  pod->RemoveContainer(container->id());
  container->Change(ContainerPhase::kGone, [](ContainerView*) {}).IgnoreError();
  if (const auto client = pod->client(); client != nullptr) {
    supervisor::v1::ToSupervisor remove;
    remove.mutable_remove_container()->set_container_id(container->id());
    if (client->CallAndWait(std::move(remove), {}, kRemoveTimeout).ok()) return;
  }
  // A supervisor that is gone is cleared up after by its loss; but this group is known to nobody
  // else.
  const std::string group = container->view()->cgroup_path;
  ClearAway(absl::StrCat("cgroup ", group), [this, group] {
    DAVIT_RETURN_IF_ERROR(groups_->KillAll(group, absl::Now() + kRemoveTimeout));
    return groups_->Remove(group, absl::Now() + kRemoveTimeout);
  });
}

absl::Status ManagerImpl::WriteConfigJson(ContainerMaking* making) {
  const Container::Fixed& fixed = making->container->fixed();
  DAVIT_ASSIGN_OR_RETURN(sys::UniqueFd directory, sys::OpenDirAt(AT_FDCWD, fixed.directory));
  // Environment variables hold secrets: root only.
  return sys::WriteFileAtomic(directory.get(), "config.json",
                              runtime::spec::SerializeSpec(making->spec.spec), 0600,
                              sys::Durability::kProcess);
}

absl::Status ManagerImpl::WriteNewContainerRecord(ContainerMaking* making) {
  state::v1::ContainerRecord record;
  record.set_format_version(kRecordVersion);
  record.set_boot_id(boot_id_);
  ToRecord(*making->container->view(), making->spec, &record);
  for (const std::string& lower : making->lower_dirs) record.add_lower_dirs(lower);
  return WriteContainerRecord(making->container->fixed().directory, record);
}

absl::Status ManagerImpl::AwaitCreated(ContainerMaking* making) {
  making->reply->done.WaitForNotification();
  return making->reply->answer->status();
}

void ManagerImpl::OrderPlanFault(runtime::plan::CompiledPlan* plan) {
  if (options_.faults == nullptr) return;
  const auto order = options_.faults->For(kCreatePlanFaults);
  int32_t number = 0;
  if (!order.has_value() || !absl::SimpleAtoi(order->step, &number)) return;
  if (runtime::plan::SetFault(number, order->value, plan)) options_.faults->Spend();
}

}  // namespace davit::sandbox

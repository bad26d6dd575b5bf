#include <fcntl.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "runtime/plan/compile.h"
#include "runtime/spec/parse.h"
#include "runtime/sys/errno.h"
#include "runtime/sys/file.h"
#include "sandbox/exec_session.h"
#include "sandbox/exec_template.h"
#include "sandbox/manager_impl.h"

namespace davit::sandbox {
namespace {

constexpr size_t kDefaultOutputLimit = 15 * 1024 * 1024;

// The container's process, with another command.
absl::StatusOr<runtime::plan::CompiledPlan> CompileExecPlan(const NodeTraits& node,
                                                            const ExecTemplate& exec_template,
                                                            const ExecSpec& spec,
                                                            const ContainerView& container,
                                                            const std::string& exec_id) {
  runtime::spec::Process process = exec_template.process;
  process.args = spec.command;
  process.terminal = spec.tty;
  process.console_size.reset();
  runtime::plan::ExecInputs inputs =
      MakeExecInputs(node, container.id, exec_id, container.cgroup_path);
  if (!exec_template.uid_mappings.empty()) {
    inputs.join.insert(runtime::spec::NamespaceType::kUser);
    inputs.uid_mappings = exec_template.uid_mappings;
  }
  if (exec_template.seccomp != nullptr) {
    inputs.has_seccomp = true;
    inputs.seccomp_flags = exec_template.seccomp->flags;
  }
  return runtime::plan::CompileExec(process, inputs);
}

}  // namespace

void ManagerImpl::ExecSync(ExecSpec spec, std::function<void(absl::StatusOr<ExecResult>)> done) {
  const CallInProgress call(this);
  if (!call.status().ok()) return done(call.status());
  auto found = registry_.FindContainer(spec.container_id);
  if (!found.ok()) return done(found.status());
  const ContainerPtr container = *found;
  const std::string what = absl::StrCat("exec in container ", container->id());
  if (spec.command.empty()) return done(absl::InvalidArgumentError(what + ": no command"));
  if (container->phase() != ContainerPhase::kRunning) {
    return done(absl::FailedPreconditionError(
        absl::StrCat(what, ": it is ", PhaseName(container->phase()))));
  }
  if (const PodPtr pod = container->fixed().pod; !ExecutesOurPlans(*pod)) {
    workers_.Run([this, pod, what, spec = std::move(spec), done = std::move(done)]() mutable {
      const absl::Status ensured = EnsureOurPlans(pod);
      if (!ensured.ok()) return done(sys::Annotate(ensured, what));
      ExecSync(std::move(spec), std::move(done));
    });
    return;
  }
  const auto client = container->fixed().pod->client();
  if (client == nullptr) {
    return done(absl::UnavailableError(what + ": its supervisor cannot be reached"));
  }
  const auto exec_template = TemplateOf(container);
  if (!exec_template.ok()) return done(sys::Annotate(exec_template.status(), what));
  const std::string exec_id = NewId().substr(0, 16);
  const auto plan = CompileExecPlan(node_, **exec_template, spec, *container->view(), exec_id);
  if (!plan.ok()) return done(sys::Annotate(plan.status(), what));
  const auto plan_fd = sys::SealedMemfd("davit-plan", plan->blob);
  if (!plan_fd.ok()) return done(sys::Annotate(plan_fd.status(), what));

  ExecSession::Request request;
  request.container_id = container->id();
  request.exec_id = exec_id;
  request.plan_fd = plan_fd->get();
  if ((*exec_template)->seccomp != nullptr) {
    request.seccomp_fd = (*exec_template)->seccomp->memfd.get();
  }
  request.tty = spec.tty;
  request.timeout = spec.timeout;
  request.output_limit = spec.output_limit == 0 ? kDefaultOutputLimit : spec.output_limit;
  ExecSession::Start(loop_.get(), client, request,
                     [what, done = std::move(done)](absl::StatusOr<ExecResult> result) {
                       done(result.ok()
                                ? std::move(result)
                                : absl::StatusOr<ExecResult>(sys::Annotate(result.status(), what)));
                     });
}

absl::StatusOr<std::shared_ptr<const ExecTemplate>> ManagerImpl::TemplateOf(
    const ContainerPtr& container) {
  if (auto kept = container->exec_template(); kept != nullptr) return kept;
  // Found again after a restart: its config.json tells.
  const std::string path = absl::StrCat(container->fixed().directory, "/config.json");
  DAVIT_ASSIGN_OR_RETURN(const std::string json,
                         sys::ReadFileAt(AT_FDCWD, path, runtime::spec::kMaxSpecBytes));
  auto spec = runtime::spec::ParseSpec(json);
  if (!spec.ok()) return sys::Annotate(spec.status(), path);
  if (!spec->process.has_value()) {
    return absl::DataLossError(absl::StrCat(path, ": has no process"));
  }
  auto made = std::make_shared<ExecTemplate>();
  made->process = *std::move(spec->process);
  made->uid_mappings = std::move(spec->linux_.uid_mappings);
  if (spec->linux_.seccomp.has_value()) {
    DAVIT_ASSIGN_OR_RETURN(made->seccomp, seccomp_.Get(*spec->linux_.seccomp));
  }
  container->set_exec_template(made);
  return std::shared_ptr<const ExecTemplate>(made);
}

}  // namespace davit::sandbox

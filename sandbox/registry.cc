#include "sandbox/registry.h"

#include <fcntl.h>

#include "absl/strings/str_cat.h"

namespace davit::sandbox {
namespace {

sys::UniqueFd Duplicate(const sys::UniqueFd& fd) {
  return sys::UniqueFd(fd.ok() ? fcntl(fd.get(), F_DUPFD_CLOEXEC, 3) : -1);
}

}  // namespace

NameTable::Reservation& NameTable::Reservation::operator=(Reservation&& other) noexcept {
  if (this != &other) {
    Release();
    shared_ = std::move(other.shared_);
    name_ = std::move(other.name_);
  }
  return *this;
}

void NameTable::Reservation::Release() {
  const std::shared_ptr<Shared> shared = std::move(shared_);
  shared_ = nullptr;
  if (shared == nullptr) return;
  sys::MutexLock lock(&shared->mutex);
  shared->ids.erase(name_);
}

absl::StatusOr<NameTable::Reservation> NameTable::Reserve(const std::string& name,
                                                          const std::string& id) {
  sys::MutexLock lock(&shared_->mutex);
  const auto [it, inserted] = shared_->ids.emplace(name, id);
  if (!inserted) {
    return absl::AlreadyExistsError(
        absl::StrCat("name \"", name, "\" is reserved for \"", it->second, "\""));
  }
  Reservation reservation;
  reservation.shared_ = shared_;
  reservation.name_ = name;
  return reservation;
}

Container::Container(Fixed fixed, Holds holds, ContainerPhase phase, ContainerView view)
    : fixed_(std::move(fixed)),
      phase_(phase),
      view_(std::make_shared<const ContainerView>(std::move(view))),
      holds_(std::move(holds)) {}

void Container::ReleaseHolds() {
  Holds released;  // destroyed without the lock
  sys::MutexLock lock(&mutex_);
  std::swap(released, holds_);
}

Container::View Container::view() const {
  sys::MutexLock lock(&mutex_);
  return view_;
}

ContainerPhase Container::phase() const {
  sys::MutexLock lock(&mutex_);
  return phase_;
}

absl::Status Container::Change(ContainerPhase to, const std::function<void(ContainerView*)>& edit) {
  std::vector<ExitCallback> waiters;
  {
    sys::MutexLock lock(&mutex_);
    const absl::Status allowed = CheckChange(absl::StrCat("container ", id()), phase_, to);
    if (!allowed.ok()) return allowed;
    auto view = std::make_shared<ContainerView>(*view_);
    switch (to) {
      case ContainerPhase::kCreating:
      case ContainerPhase::kCreated:
        view->state = ContainerState::kCreated;
        break;
      case ContainerPhase::kRunning:
        view->state = ContainerState::kRunning;
        break;
      case ContainerPhase::kExited:
      case ContainerPhase::kGone:
        view->state = ContainerState::kExited;
        break;
      case ContainerPhase::kUnknown:
        view->state = ContainerState::kUnknown;
        break;
    }
    edit(view.get());
    phase_ = to;
    view_ = std::move(view);
    if (to == ContainerPhase::kExited || to == ContainerPhase::kGone) waiters.swap(exit_waiters_);
  }
  for (const auto& waiter : waiters) waiter(absl::OkStatus());
  return absl::OkStatus();
}

void Container::Edit(const std::function<void(ContainerView*)>& edit) {
  sys::MutexLock lock(&mutex_);
  auto view = std::make_shared<ContainerView>(*view_);
  edit(view.get());
  view_ = std::move(view);
}

void Container::WhenExited(ExitCallback callback) {
  absl::Status status;
  {
    sys::MutexLock lock(&mutex_);
    if (phase_ != ContainerPhase::kExited && phase_ != ContainerPhase::kGone) {
      if (abandoned_.ok()) {
        exit_waiters_.push_back(std::move(callback));
        return;
      }
      status = abandoned_;
    }
  }
  callback(status);
}

void Container::Abandon(const absl::Status& why) {
  std::vector<ExitCallback> waiters;
  {
    sys::MutexLock lock(&mutex_);
    abandoned_ = why;
    waiters.swap(exit_waiters_);
  }
  for (const auto& waiter : waiters) waiter(why);
}

void Container::WithStopPlan(const std::function<void(StopPlan*)>& change) {
  sys::MutexLock lock(&mutex_);
  change(&stop_);
}

std::shared_ptr<const ExecTemplate> Container::exec_template() const {
  sys::MutexLock lock(&mutex_);
  return exec_template_;
}

void Container::set_exec_template(std::shared_ptr<const ExecTemplate> exec_template) {
  sys::MutexLock lock(&mutex_);
  exec_template_ = std::move(exec_template);
}

void Container::set_pidfd(sys::UniqueFd pidfd) {
  sys::MutexLock lock(&mutex_);
  pidfd_ = std::move(pidfd);
}

sys::UniqueFd Container::pidfd() const {
  sys::MutexLock lock(&mutex_);
  return Duplicate(pidfd_);
}

Pod::Pod(Fixed fixed, NameTable::Reservation name, PodPhase phase, PodView view)
    : fixed_(std::move(fixed)),
      phase_(phase),
      view_(std::make_shared<const PodView>(std::move(view))),
      name_(std::move(name)) {}

void Pod::ReleaseName() {
  sys::MutexLock lock(&mutex_);
  name_.Release();
}

Pod::View Pod::view() const {
  sys::MutexLock lock(&mutex_);
  return view_;
}

PodPhase Pod::phase() const {
  sys::MutexLock lock(&mutex_);
  return phase_;
}

absl::Status Pod::Change(PodPhase to, const std::function<void(PodView*)>& edit) {
  sys::MutexLock lock(&mutex_);
  const absl::Status allowed = CheckChange(absl::StrCat("pod ", id()), phase_, to);
  if (!allowed.ok()) return allowed;
  auto view = std::make_shared<PodView>(*view_);
  view->state =
      to == PodPhase::kReady || to == PodPhase::kStopping ? PodState::kReady : PodState::kNotReady;
  edit(view.get());
  phase_ = to;
  view_ = std::move(view);
  return absl::OkStatus();
}

void Pod::Edit(const std::function<void(PodView*)>& edit) {
  sys::MutexLock lock(&mutex_);
  auto view = std::make_shared<PodView>(*view_);
  edit(view.get());
  view_ = std::move(view);
}

void Pod::AddContainer(const ContainerPtr& container) {
  sys::MutexLock lock(&mutex_);
  containers_[container->id()] = container;
}

void Pod::RemoveContainer(const std::string& id) {
  ContainerPtr gone;  // destroyed without the lock
  sys::MutexLock lock(&mutex_);
  const auto it = containers_.find(id);
  if (it == containers_.end()) return;
  gone = std::move(it->second);
  containers_.erase(it);
}

std::vector<ContainerPtr> Pod::containers() const {
  sys::MutexLock lock(&mutex_);
  std::vector<ContainerPtr> containers;
  for (const auto& [id, container] : containers_) containers.push_back(container);
  return containers;
}

ContainerPtr Pod::FindContainer(const std::string& id) const {
  sys::MutexLock lock(&mutex_);
  const auto it = containers_.find(id);
  return it == containers_.end() ? nullptr : it->second;
}

std::shared_ptr<SupervisorClient> Pod::client() const {
  sys::MutexLock lock(&mutex_);
  return client_;
}

void Pod::set_client(std::shared_ptr<SupervisorClient> client) {
  sys::MutexLock lock(&mutex_);
  client_ = std::move(client);
}

void Pod::set_process(Process process) {
  sys::MutexLock lock(&mutex_);
  process_ = std::move(process);
}

Pod::Process Pod::take_process() {
  sys::MutexLock lock(&mutex_);
  return std::exchange(process_, Process());
}

sys::UniqueFd Pod::pidfd() const {
  sys::MutexLock lock(&mutex_);
  return Duplicate(process_.pidfd);
}

bool Pod::ClaimLoss() {
  sys::MutexLock lock(&mutex_);
  return !std::exchange(loss_claimed_, true);
}

void Pod::ExpectEnd() {
  sys::MutexLock lock(&mutex_);
  loss_claimed_ = true;
}

bool Pod::BeginProbe() {
  sys::MutexLock lock(&mutex_);
  return !std::exchange(probing_, true);
}

void Pod::EndProbe() {
  sys::MutexLock lock(&mutex_);
  probing_ = false;
}

Pod::Build Pod::build() const {
  sys::MutexLock lock(&mutex_);
  return build_;
}

void Pod::set_build(Build build) {
  sys::MutexLock lock(&mutex_);
  build_ = std::move(build);
}

int32_t Pod::init_pid() const {
  sys::MutexLock lock(&mutex_);
  return init_pid_;
}

void Pod::set_init_pid(int32_t pid) {
  sys::MutexLock lock(&mutex_);
  init_pid_ = pid;
}

void Registry::Add(const PodPtr& pod) {
  sys::MutexLock lock(&mutex_);
  pods_.Insert(pod->id(), pod);
}

void Registry::Add(const ContainerPtr& container) {
  sys::MutexLock lock(&mutex_);
  containers_.Insert(container->id(), container);
}

void Registry::Remove(const Pod& pod) {
  sys::MutexLock lock(&mutex_);
  pods_.Erase(pod.id());
}

void Registry::Remove(const Container& container) {
  sys::MutexLock lock(&mutex_);
  containers_.Erase(container.id());
}

absl::StatusOr<PodPtr> Registry::FindPod(absl::string_view id) const {
  sys::MutexLock lock(&mutex_);
  return pods_.Resolve(id);
}

absl::StatusOr<ContainerPtr> Registry::FindContainer(absl::string_view id) const {
  sys::MutexLock lock(&mutex_);
  return containers_.Resolve(id);
}

std::vector<PodPtr> Registry::Pods() const {
  sys::MutexLock lock(&mutex_);
  return pods_.Values();
}

std::vector<ContainerPtr> Registry::Containers() const {
  sys::MutexLock lock(&mutex_);
  return containers_.Values();
}

void Registry::Clear() {
  for (const ContainerPtr& container : Containers()) {
    container->fixed().pod->RemoveContainer(container->id());
    Remove(*container);
  }
  for (const PodPtr& pod : Pods()) Remove(*pod);
}

}  // namespace davit::sandbox

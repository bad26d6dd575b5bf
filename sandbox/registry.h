#ifndef DAVIT_SANDBOX_REGISTRY_H_
#define DAVIT_SANDBOX_REGISTRY_H_

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "runtime/sys/mutex.h"
#include "runtime/sys/unique_fd.h"
#include "sandbox/ids.h"
#include "sandbox/io_loop.h"
#include "sandbox/manager.h"
#include "sandbox/operation_gate.h"
#include "sandbox/state.h"
#include "sandbox/supervisor_client.h"

namespace davit::sandbox {

// Names ("name_namespace_uid_attempt") that are taken. Thread-safe; reservations may outlive it.
class NameTable {
 public:
  // Gives the name back when it goes: a name is taken exactly as long as the operation or the
  // object that holds this.
  class Reservation {
   public:
    Reservation() = default;
    Reservation(Reservation&&) = default;
    Reservation& operator=(Reservation&& other) noexcept;
    ~Reservation() { Release(); }
    void Release();

   private:
    friend class NameTable;
    struct Shared {
      sys::Mutex mutex;
      std::map<std::string, std::string> ids ABSL_GUARDED_BY(mutex);  // by name
    };
    std::shared_ptr<Shared> shared_;
    std::string name_;
  };

  NameTable() : shared_(std::make_shared<Reservation::Shared>()) {}

  // AlreadyExists: `name "x" is reserved for "id"`.
  absl::StatusOr<Reservation> Reserve(const std::string& name, const std::string& id);

 private:
  std::shared_ptr<Reservation::Shared> shared_;
};

// What an exec session takes from its container: kept compiled as far as it can be.
struct ExecTemplate;

class Pod;

// A container in memory. Thread-safe. The phase and the view change together and only along the
// table of state.h.
class Container {
 public:
  using View = std::shared_ptr<const ContainerView>;

  // What does not change in its life.
  struct Fixed {
    std::string id;
    std::shared_ptr<Pod> pod;
    std::string directory;  // bundle, record, status
    std::string layer_directory;
    // Its record has a newer format: what it says may not be all. Nothing is done to it that nobody
    // has asked for.
    bool newer_record = false;
  };
  // What it holds while it lives.
  struct Holds {
    NameTable::Reservation name;
    std::unique_ptr<images::LayerPin> pin;
  };

  Container(Fixed fixed, Holds holds, ContainerPhase phase, ContainerView view);
  // Gives the holds back, for whoever comes next: the object itself lives as long as somebody looks
  // at it.
  void ReleaseHolds();

  const std::string& id() const { return fixed_.id; }
  const Fixed& fixed() const { return fixed_; }
  OperationGate& gate() { return gate_; }

  View view() const;
  ContainerPhase phase() const;

  // Moves to `to` and lets `edit` change the view; FailedPrecondition for an illegal edge, with
  // nothing changed. Exit waiters are called, on this thread, when the phase becomes kExited.
  absl::Status Change(ContainerPhase to, const std::function<void(ContainerView*)>& edit);
  // Changes the view only.
  void Edit(const std::function<void(ContainerView*)>& edit);

  // Calls back once, when the container has exited: at once if it has. Not OK if it is abandoned
  // first.
  using ExitCallback = std::function<void(absl::Status)>;
  void WhenExited(ExitCallback callback);
  // The daemon ends: whoever waits for the exit gets `why`.
  void Abandon(const absl::Status& why);

  // The pending stop, if there is one.
  struct StopPlan {
    bool signalled = false;                       // the stop signal has been sent
    absl::Time kill_at = absl::InfiniteFuture();  // when SIGKILL is due
    IoLoop::Handle timer = 0;                     // of that
  };
  // Runs `change` with exclusive access to the stop plan.
  void WithStopPlan(const std::function<void(StopPlan*)>& change);

  std::shared_ptr<const ExecTemplate> exec_template() const;
  void set_exec_template(std::shared_ptr<const ExecTemplate> exec_template);

  // A pidfd of the init, so that its exit status can be learned without its supervisor.
  void set_pidfd(sys::UniqueFd pidfd);
  // A duplicate: the number of the original could be another process's by the time it is used.
  sys::UniqueFd pidfd() const;

 private:
  const Fixed fixed_;
  OperationGate gate_;
  mutable sys::Mutex mutex_;
  ContainerPhase phase_ ABSL_GUARDED_BY(mutex_);
  View view_ ABSL_GUARDED_BY(mutex_);
  StopPlan stop_ ABSL_GUARDED_BY(mutex_);
  std::vector<ExitCallback> exit_waiters_ ABSL_GUARDED_BY(mutex_);
  absl::Status abandoned_ ABSL_GUARDED_BY(mutex_);
  Holds holds_ ABSL_GUARDED_BY(mutex_);
  std::shared_ptr<const ExecTemplate> exec_template_ ABSL_GUARDED_BY(mutex_);
  sys::UniqueFd pidfd_ ABSL_GUARDED_BY(mutex_);
};
using ContainerPtr = std::shared_ptr<Container>;

// A pod in memory. Thread-safe, as Container.
class Pod {
 public:
  using View = std::shared_ptr<const PodView>;

  struct Fixed {
    std::string id;
    std::string directory;     // <state>/pods/<id>
    bool owns_cgroup = false;  // the pod's group is ours, to be removed
    std::string supervisor_leaf;
    std::string boot_id;        // of the machine's run in which it was made
    bool newer_record = false;  // as in Container::Fixed
  };

  Pod(Fixed fixed, NameTable::Reservation name, PodPhase phase, PodView view);
  // Gives the name back.
  void ReleaseName();

  const std::string& id() const { return fixed_.id; }
  const Fixed& fixed() const { return fixed_; }
  OperationGate& gate() { return gate_; }

  View view() const;
  PodPhase phase() const;
  absl::Status Change(PodPhase to, const std::function<void(PodView*)>& edit);
  void Edit(const std::function<void(PodView*)>& edit);

  // The containers, those still being created included.
  void AddContainer(const ContainerPtr& container);
  void RemoveContainer(const std::string& id);
  std::vector<ContainerPtr> containers() const;
  ContainerPtr FindContainer(const std::string& id) const;

  // The connection to the supervisor; null when it is lost or not yet reached.
  std::shared_ptr<SupervisorClient> client() const;
  void set_client(std::shared_ptr<SupervisorClient> client);

  // The supervisor's pidfd and its watch in the event loop. The holder unwatches and reaps.
  struct Process {
    sys::UniqueFd pidfd;
    IoLoop::Handle watch = 0;
  };
  void set_process(Process process);
  Process take_process();
  sys::UniqueFd pidfd() const;  // a duplicate; none: not ok()

  // True from the first time on only: who gets it handles the loss.
  bool ClaimLoss();
  // A wanted end of the supervisor: nobody may claim a loss any more.
  void ExpectEnd();
  // True unless somebody is finding out already whether the supervisor still answers.
  bool BeginProbe();
  void EndProbe();
  // What runs as the supervisor, as it says itself.
  struct Build {
    std::string program_id;
    std::string version;        // "": of the time before there were any
    uint32_t plan_version = 0;  // 0: it has not said
  };
  Build build() const;
  void set_build(Build build);
  int32_t init_pid() const;
  void set_init_pid(int32_t pid);

 private:
  const Fixed fixed_;
  OperationGate gate_;
  mutable sys::Mutex mutex_;
  PodPhase phase_ ABSL_GUARDED_BY(mutex_);
  View view_ ABSL_GUARDED_BY(mutex_);
  NameTable::Reservation name_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, ContainerPtr> containers_ ABSL_GUARDED_BY(mutex_);
  std::shared_ptr<SupervisorClient> client_ ABSL_GUARDED_BY(mutex_);
  Process process_ ABSL_GUARDED_BY(mutex_);
  bool loss_claimed_ ABSL_GUARDED_BY(mutex_) = false;
  bool probing_ ABSL_GUARDED_BY(mutex_) = false;
  Build build_ ABSL_GUARDED_BY(mutex_);
  int32_t init_pid_ ABSL_GUARDED_BY(mutex_) = 0;
};
using PodPtr = std::shared_ptr<Pod>;

// Every pod and container that is listed. Thread-safe; no call waits for I/O or for an operation.
class Registry {
 public:
  void Add(const PodPtr& pod);
  void Add(const ContainerPtr& container);
  void Remove(const Pod& pod);
  void Remove(const Container& container);

  absl::StatusOr<PodPtr> FindPod(absl::string_view id) const;  // or unique prefix
  absl::StatusOr<ContainerPtr> FindContainer(absl::string_view id) const;
  std::vector<PodPtr> Pods() const;
  std::vector<ContainerPtr> Containers() const;
  // Lets everything go at the end: pods and containers hold each other.
  void Clear();

  NameTable& pod_names() { return pod_names_; }
  NameTable& container_names() { return container_names_; }

 private:
  NameTable pod_names_;
  NameTable container_names_;
  mutable sys::Mutex mutex_;
  IdMap<PodPtr> pods_ ABSL_GUARDED_BY(mutex_){"pod"};
  IdMap<ContainerPtr> containers_ ABSL_GUARDED_BY(mutex_){"container"};
};

}  // namespace davit::sandbox

#endif  // DAVIT_SANDBOX_REGISTRY_H_

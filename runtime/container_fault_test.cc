// Every operation of a plan fails in turn: nothing may be left, and the error names the operation.

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "runtime/plan/plan.h"
#include "runtime/stage/launch.h"
#include "runtime/sys/file.h"
#include "runtime/sys/spawn.h"
#include "runtime/testing/bundle.h"

namespace davit::runtime {
namespace {

using stage::Event;
using stage::ExternalFds;
using stage::Launch;
using testing::Bundle;
using testing::Residue;

sys::UniqueFd Memfd(const std::string& blob) {
  auto fd = sys::SealedMemfd("plan", blob);
  EXPECT_TRUE(fd.ok());
  return *std::move(fd);
}

plan::Header& HeaderOf(std::string& blob) { return *reinterpret_cast<plan::Header*>(blob.data()); }

plan::View ViewOf(const std::string& blob) {
  return plan::View({reinterpret_cast<const unsigned char*>(blob.data()), blob.size()});
}

// Drives a launch to its end as a supervisor does, and cleans up. Returns the error.
absl::Status RunToEnd(const std::string& blob, const ExternalFds& external, bool* running) {
  *running = false;
  auto opened = Launch::Open(Memfd(blob).get(), external);
  if (!opened.ok()) return opened.status();
  Launch& launch = **opened;
  absl::Status status = launch.Prepare();
  if (status.ok() && launch.helper_pidfd() >= 0) {
    siginfo_t info = {};
    waitid(P_PIDFD, static_cast<id_t>(launch.helper_pidfd()), &info, WEXITED | WNOWAIT);
    status = launch.FinishPrepare();
  }
  if (status.ok()) status = launch.Clone();
  while (status.ok() && !*running) {
    // A blocking wait for the next message.
    fd_set set;
    FD_ZERO(&set);
    FD_SET(launch.report_fd(), &set);
    select(launch.report_fd() + 1, &set, nullptr, nullptr, nullptr);
    switch (launch.Read()) {
      case Event::kNothing:
        break;
      case Event::kCreated:
        status = launch.Start();
        break;
      case Event::kRunning:
        *running = true;
        break;
      case Event::kFailed:
        status = launch.failure().ToStatus();
        break;
    }
  }
  if (launch.pidfd() >= 0) {
    EXPECT_TRUE(sys::KillPidfd(launch.pidfd(), SIGKILL).ok());
    EXPECT_TRUE(sys::WaitPidfd(launch.pidfd(), absl::Now() + absl::Seconds(10)).ok());
  }
  absl::Status undone = launch.Undo();
  while (absl::IsUnavailable(undone)) {
    absl::SleepFor(absl::Milliseconds(1));
    undone = launch.Undo();
  }
  EXPECT_TRUE(undone.ok()) << undone;
  return status;
}

// A volatile overlay is mounted over its upper directory once only.
void FreshUpper(const Container::Options& options) {
  std::filesystem::remove_all(options.inputs.overlay->upper_dir);
  std::filesystem::remove_all(options.inputs.overlay->work_dir);
}

spec::Spec FullSpec(const Bundle& bundle) {
  spec::Spec spec = bundle.DefaultSpec();
  spec.process->args = Bundle::Probe({{"pause"}});
  spec.process->cwd = "/made/here";
  spec.process->oom_score_adj = 300;
  spec.process->rlimits = {{"RLIMIT_CORE", 0, 0}};
  spec.root.readonly = true;
  spec.linux_.rootfs_propagation = "slave";
  spec.domainname = "d";
  spec.linux_.sysctl = {{"net.ipv4.ip_forward", "1"}};
  spec.mounts.push_back({"/own", "bind", bundle.dir(), {"rbind", "ro"}});
  spec.mounts.push_back({"/user", "bind", "/tmp", {"rbind", "ro"}});
  spec.mounts[1].options.push_back("ro");
  return spec;
}

TEST(ContainerFaultTest, NothingIsLeftWhicheverOperationFails) {
  Bundle bundle;
  Container::Options options = bundle.Options(FullSpec(bundle));
  options.inputs.own_paths = {bundle.dir()};
  auto compiled = plan::CompileCreate(options.spec, options.inputs);
  ASSERT_TRUE(compiled.ok()) << compiled.status();
  const plan::View view = ViewOf(compiled->blob);
  const int parents = static_cast<int>(view.header().parent_count);
  const int count = parents + static_cast<int>(view.header().child_count);
  const Residue before = bundle.Count();
  for (int k = 0; k <= count; ++k) {
    FreshUpper(options);
    std::string blob = compiled->blob;
    HeaderOf(blob).fault_op = k < count ? k : -1;
    HeaderOf(blob).fault_errno = EXDEV;
    bool running = false;
    const absl::Status status = RunToEnd(blob, {}, &running);
    if (k == count) {
      EXPECT_TRUE(running) << status;
    } else {
      const plan::Op& op = k < parents ? view.parent_ops()[k] : view.child_ops()[k - parents];
      EXPECT_FALSE(running);
      EXPECT_TRUE(absl::StartsWith(status.message(), plan::OpName(op.code))) << k << " " << status;
      EXPECT_TRUE(absl::EndsWith(status.message(), "(EXDEV)")) << status;
    }
    const Residue after = bundle.Count();
    ASSERT_EQ(after, before) << "operation " << k << "\n" << after.ToString();
  }
}

TEST(ContainerFaultTest, NothingIsLeftInAUserNamespaceEither) {
  Bundle bundle;
  spec::Spec spec = FullSpec(bundle);
  spec.linux_.namespaces.push_back({spec::NamespaceType::kUser, ""});
  spec.linux_.uid_mappings = {{0, 100000, 65536}};
  spec.linux_.gid_mappings = {{0, 100000, 65536}};
  Container::Options options = bundle.Options(spec);
  options.inputs.overlay->idmap_lower = true;
  auto compiled = plan::CompileCreate(options.spec, options.inputs);
  if (!options.inputs.features.overlay_lowerdir_append) {
    EXPECT_TRUE(absl::IsUnimplemented(compiled.status()));
    GTEST_SKIP() << "no overlay of idmapped layers on this kernel";
  }
  ASSERT_TRUE(compiled.ok()) << compiled.status();
  const plan::Header& header = ViewOf(compiled->blob).header();
  const int count = static_cast<int>(header.parent_count + header.child_count);
  const Residue before = bundle.Count();
  for (int k = static_cast<int>(header.parent_count) - 1; k <= count; ++k) {
    FreshUpper(options);
    std::string blob = compiled->blob;
    HeaderOf(blob).fault_op = k < count ? k : -1;
    HeaderOf(blob).fault_errno = EXDEV;
    bool running = false;
    const absl::Status status = RunToEnd(blob, {}, &running);
    EXPECT_EQ(running, k == count) << k << " " << status;
    const Residue after = bundle.Count();
    ASSERT_EQ(after, before) << "operation " << k << "\n" << after.ToString();
  }
}

TEST(ContainerFaultTest, NothingIsLeftOfAnExecSessionThatFails) {
  Bundle bundle;
  Container::Options options = bundle.Options(bundle.DefaultSpec());
  options.spec.process->args = Bundle::Probe({{"pause"}});
  auto container = Container::Create(options);
  ASSERT_TRUE(container.ok()) << container.status();
  ASSERT_TRUE((*container)->Start().ok());
  auto pidfd = sys::PidfdOpen((*container)->pid());
  ASSERT_TRUE(pidfd.ok());
  plan::ExecInputs inputs;
  inputs.container_id = options.inputs.container_id;
  inputs.cgroups = options.inputs.cgroups;
  inputs.exec_leaf = "exec-1";
  inputs.features = options.inputs.features;
  inputs.capability_ceiling = options.inputs.capability_ceiling;
  inputs.join = {spec::NamespaceType::kMount, spec::NamespaceType::kCgroup,
                 spec::NamespaceType::kIpc, spec::NamespaceType::kUts,
                 spec::NamespaceType::kNetwork};
  auto compiled = plan::CompileExec(*options.spec.process, inputs);
  ASSERT_TRUE(compiled.ok()) << compiled.status();
  const plan::Header& header = ViewOf(compiled->blob).header();
  const int count = static_cast<int>(header.parent_count + header.child_count);
  ExternalFds external;
  external[plan::kTarget] = pidfd->get();
  const Residue before = bundle.Count();
  for (int k = 0; k <= count; ++k) {
    std::string blob = compiled->blob;
    HeaderOf(blob).fault_op = k < count ? k : -1;
    HeaderOf(blob).fault_errno = EXDEV;
    bool running = false;
    const absl::Status status = RunToEnd(blob, external, &running);
    EXPECT_EQ(running, k == count) << k << " " << status;
    const Residue after = bundle.Count();
    ASSERT_EQ(after, before) << "operation " << k << "\n" << after.ToString();
  }
}

// A file system whose server never answers, as a dead network file system's does not.
class HungFilesystem {
 public:
  explicit HungFilesystem(const std::string& path) : path_(path) {
    std::filesystem::create_directory(path_);
    device_.reset(open("/dev/fuse", O_RDWR | O_CLOEXEC));
    EXPECT_TRUE(device_.ok());
    const std::string data =
        absl::StrCat("fd=", device_.get(), ",rootmode=40000,user_id=0,group_id=0");
    EXPECT_EQ(mount("hung", path_.c_str(), "fuse", 0, data.c_str()), 0) << strerror(errno);
  }
  ~HungFilesystem() {
    umount2(path_.c_str(), MNT_DETACH);
    device_.reset();
  }

 private:
  const std::string path_;
  sys::UniqueFd device_;
};

TEST(ContainerFaultTest, ABindSourceThatHangsIsGivenUpAtTheDeadlineAndNamed) {
  Bundle bundle;
  const std::string path = bundle.dir() + "/hung";
  const HungFilesystem hung(path);
  spec::Spec spec = bundle.DefaultSpec();
  spec.mounts.push_back({"/fine", "bind", "/tmp", {"rbind"}});
  spec.mounts.push_back({"/hung", "bind", path + "/sub", {"rbind"}});
  Container::Options options = bundle.Options(spec);
  options.timeout = absl::Milliseconds(200);
  const Residue before = bundle.Count();
  const absl::Status status = Container::Create(options).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_TRUE(
      absl::StartsWith(status.message(), absl::StrCat("open bind source \"", path, "/sub\"")))
      << status;
  const Residue after = bundle.Count();
  EXPECT_EQ(after, before) << after.ToString();
}

TEST(ContainerFaultTest, WithTooFewDescriptorsNothingOfAnOperationIsLeft) {
  Bundle bundle;
  const Container::Options options = bundle.Options(bundle.DefaultSpec());
  auto compiled = plan::CompileCreate(options.spec, options.inputs);
  ASSERT_TRUE(compiled.ok());
  const sys::UniqueFd plan = Memfd(compiled->blob);
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
  const Residue residue = bundle.Count();
  int failures = 0;
  for (rlim_t room = 0;; ++room) {
    ASSERT_LT(room, 100u);
    FreshUpper(options);
    auto launch = Launch::Open(plan.get(), {});
    ASSERT_TRUE(launch.ok()) << launch.status();
    const sys::UniqueFd next(open("/dev/null", O_RDONLY | O_CLOEXEC));
    const rlimit limit{static_cast<rlim_t>(next.get()) + 1 + room, before.rlim_max};
    ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &limit), 0);
    absl::Status status = (*launch)->Prepare();
    ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &before), 0);
    if (status.ok() && (*launch)->helper_pidfd() >= 0) {
      siginfo_t info = {};
      waitid(P_PIDFD, static_cast<id_t>((*launch)->helper_pidfd()), &info, WEXITED | WNOWAIT);
      status = (*launch)->FinishPrepare();
    }
    absl::Status undone = (*launch)->Undo();
    EXPECT_TRUE(undone.ok()) << undone;
    launch->reset();
    EXPECT_EQ(bundle.Count().cgroups, residue.cgroups) << room << " descriptors: " << status;
    if (status.ok()) break;
    ++failures;
    EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
  }
  EXPECT_GT(failures, 2);
}

TEST(ContainerFaultTest, APlanOfAnotherVersionIsRefusedAsSuch) {
  Bundle bundle;
  const Container::Options options = bundle.Options(bundle.DefaultSpec());
  auto compiled = plan::CompileCreate(options.spec, options.inputs);
  ASSERT_TRUE(compiled.ok());
  std::string blob = compiled->blob;
  ++HeaderOf(blob).version;
  EXPECT_EQ(Launch::Open(Memfd(blob).get(), {}).status().code(),
            absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(Launch::Open(Memfd("short").get(), {}).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST(ContainerFaultTest, AMissingExternalDescriptorIsFoundBeforeAnythingHappens) {
  Bundle bundle;
  Container::Options options = bundle.Options(bundle.DefaultSpec());
  options.inputs.join_pod_mount_namespace = true;
  auto compiled = plan::CompileCreate(options.spec, options.inputs);
  ASSERT_TRUE(compiled.ok());
  EXPECT_EQ(Launch::Open(Memfd(compiled->blob).get(), {}).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST(ContainerFaultTest, AKilledStageIsReportedWithItsOperation) {
  Bundle bundle;
  Container::Options options = bundle.Options(bundle.DefaultSpec());
  auto container = Container::Create(options);
  ASSERT_TRUE(container.ok()) << container.status();
  ASSERT_TRUE((*container)->Kill(SIGKILL).ok());
  EXPECT_FALSE((*container)->Start().ok());
}

TEST(ContainerFaultTest, ASupervisorThatWasReplacedUndoesByThePlanAlone) {
  Bundle bundle;
  const Residue before = bundle.Count();
  const Container::Options options = bundle.Options(bundle.DefaultSpec());
  auto compiled = plan::CompileCreate(options.spec, options.inputs);
  ASSERT_TRUE(compiled.ok());
  const sys::UniqueFd plan = Memfd(compiled->blob);
  {
    auto launch = Launch::Open(plan.get(), {});
    ASSERT_TRUE(launch.ok());
    ASSERT_TRUE((*launch)->Prepare().ok());
  }
  EXPECT_NE(bundle.Count().cgroups, before.cgroups);
  EXPECT_TRUE(Launch::UndoPlan(plan.get()).ok());
  EXPECT_TRUE(Launch::UndoPlan(plan.get()).ok());
  EXPECT_EQ(bundle.Count().cgroups, before.cgroups);
}

}  // namespace
}  // namespace davit::runtime

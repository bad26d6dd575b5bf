#include "cri/translate_container.h"

#include <fcntl.h>

#include "absl/strings/match.h"
#include "cri/metadata.h"
#include "gtest/gtest.h"
#include "proto/api.pb.h"
#include "runtime/spec/serialize.h"
#include "runtime/sys/file.h"

namespace davit::cri {
namespace {

namespace v1 = ::runtime::v1;
using sandbox::NamespaceMode;

class TranslateContainerTest : public testing::Test {
 protected:
  TranslateContainerTest() {
    pod_config_.mutable_metadata()->set_name("web");
    pod_config_.mutable_metadata()->set_namespace_("prod");
    pod_config_.mutable_metadata()->set_uid("u1");
    pod_config_.set_hostname("web-0");
    pod_config_.set_log_directory("/var/log/pods/web");
    pod_.id = "pod1";
    pod_.hosts_path = "/run/davit/pods/pod1/hosts";
    image_.id = "sha256:abc";
    image_.config.entrypoint = {"/entry"};
    image_.config.cmd = {"serve"};
    image_.config.env = {"PATH=/bin"};
    image_.config.stop_signal = "SIGQUIT";
    node_.capabilities = (uint64_t{1} << 41) - 1;
    node_.features.cgroup_namespaces = true;
    node_.features.mount_setattr = true;
    config_.mutable_metadata()->set_name("app");
    config_.mutable_metadata()->set_attempt(3);
    config_.mutable_image()->set_image("example/app:1");
    config_.set_log_path("app/3.log");
    inputs_.pod = &pod_;
    inputs_.pod_config = &pod_config_;
    inputs_.image = &image_;
    inputs_.node = &node_;
    inputs_.user = {1000, 100, {100, 5}, "/home/app"};
    inputs_.find_target = [](const std::string& id) -> absl::StatusOr<std::string> {
      return id + "-full";
    };
  }

  v1::LinuxContainerSecurityContext* security() {
    return config_.mutable_linux()->mutable_security_context();
  }
  absl::StatusOr<sandbox::ContainerSpec> Translate() {
    return TranslateContainer(config_, inputs_);
  }

  v1::PodSandboxConfig pod_config_;
  sandbox::PodView pod_;
  images::Image image_;
  Node node_;
  v1::ContainerConfig config_;
  ContainerInputs inputs_;
};

TEST_F(TranslateContainerTest, ThePlainestContainer) {
  const auto spec = Translate();
  ASSERT_TRUE(spec.ok()) << spec.status();
  EXPECT_EQ(spec->name_key, "app_web_prod_u1_3");
  EXPECT_EQ(spec->pod_id, "pod1");
  EXPECT_EQ(spec->image_id, "sha256:abc");
  EXPECT_EQ(spec->log_path, "/var/log/pods/web/app/3.log");
  EXPECT_EQ(spec->stop_signal, 3);
  EXPECT_EQ(spec->pid, NamespaceMode::kPod);
  const auto golden = sys::ReadFileAt(AT_FDCWD, "cri/testdata/plain_container.json", 1 << 20);
  ASSERT_TRUE(golden.ok()) << golden.status();
  EXPECT_EQ(runtime::spec::SerializeSpec(spec->spec), *golden);
}

TEST_F(TranslateContainerTest, APrivilegedContainerNeedsAPrivilegedPodAndGetsEverything) {
  security()->set_privileged(true);
  security()->add_masked_paths("/proc/kcore");
  security()->mutable_seccomp()->set_profile_type(v1::SecurityProfile::RuntimeDefault);
  EXPECT_EQ(Translate().status().code(), absl::StatusCode::kInvalidArgument);
  pod_config_.mutable_linux()->mutable_security_context()->set_privileged(true);
  const auto spec = Translate();
  ASSERT_TRUE(spec.ok()) << spec.status();
  EXPECT_EQ(spec->spec.process->capabilities->bounding.size(), 41u);
  EXPECT_FALSE(spec->spec.linux_.seccomp.has_value());
  EXPECT_TRUE(spec->spec.linux_.masked_paths.empty());
  EXPECT_FALSE(spec->spec.linux_.devices.empty());
  for (const auto& name_space : spec->spec.linux_.namespaces) {
    EXPECT_NE(name_space.type, runtime::spec::NamespaceType::kCgroup);
  }
}

TEST_F(TranslateContainerTest, ConfinementArrives) {
  security()->set_no_new_privs(true);
  security()->set_readonly_rootfs(true);
  security()->add_masked_paths("/proc/kcore");
  security()->add_readonly_paths("/proc/sys");
  security()->mutable_seccomp()->set_profile_type(v1::SecurityProfile::RuntimeDefault);
  const auto spec = Translate();
  ASSERT_TRUE(spec.ok()) << spec.status();
  EXPECT_TRUE(spec->spec.process->no_new_privileges);
  EXPECT_TRUE(spec->spec.root.readonly);
  EXPECT_EQ(spec->spec.linux_.masked_paths, std::vector<std::string>{"/proc/kcore"});
  EXPECT_EQ(spec->spec.linux_.readonly_paths, std::vector<std::string>{"/proc/sys"});
  EXPECT_TRUE(spec->spec.linux_.seccomp.has_value());
}

TEST_F(TranslateContainerTest, NoSeccompMessageIsUnconfinedAndTheDeprecatedFieldStillCounts) {
  EXPECT_FALSE(Translate()->spec.linux_.seccomp.has_value());
  security()->set_seccomp_profile_path("runtime/default");
  EXPECT_TRUE(Translate()->spec.linux_.seccomp.has_value());
  security()->mutable_seccomp()->set_profile_type(v1::SecurityProfile::Unconfined);
  EXPECT_FALSE(Translate()->spec.linux_.seccomp.has_value());
}

TEST_F(TranslateContainerTest, AnAppArmorProfileWithoutAppArmorIsAnError) {
  security()->mutable_apparmor()->set_profile_type(v1::SecurityProfile::Localhost);
  security()->mutable_apparmor()->set_localhost_ref("strict");
  EXPECT_EQ(Translate().status().code(), absl::StatusCode::kFailedPrecondition);
  security()->mutable_apparmor()->set_profile_type(v1::SecurityProfile::RuntimeDefault);
  EXPECT_TRUE(Translate().ok());
  security()->clear_apparmor();
  security()->set_apparmor_profile("localhost/strict");
  EXPECT_EQ(Translate().status().code(), absl::StatusCode::kFailedPrecondition);
}

TEST_F(TranslateContainerTest, SelinuxOptionsAreAnErrorOnlyWhereSelinuxIsOn) {
  security()->mutable_selinux_options()->set_level("s0:c1,c2");
  EXPECT_TRUE(Translate().ok());
  node_.features.selinux = true;
  EXPECT_EQ(Translate().status().code(), absl::StatusCode::kUnimplemented);
  security()->mutable_selinux_options()->clear_level();
  EXPECT_TRUE(Translate().ok());
}

TEST_F(TranslateContainerTest, PidModes) {
  auto* options = security()->mutable_namespace_options();
  pod_.spec.pid = NamespaceMode::kContainer;
  EXPECT_EQ(Translate()->pid, NamespaceMode::kContainer) << "mode POD is what the pod has";
  options->set_pid(v1::NODE);
  EXPECT_EQ(Translate()->pid, NamespaceMode::kNode);
  options->set_pid(v1::CONTAINER);
  EXPECT_EQ(Translate()->pid, NamespaceMode::kContainer);
  options->set_pid(v1::TARGET);
  options->set_target_id("c1");
  EXPECT_EQ(Translate()->pid, NamespaceMode::kTarget);
  EXPECT_EQ(Translate()->pid_target, "c1-full");
}

TEST_F(TranslateContainerTest, ResourcesAndDeviceRulesArrive) {
  auto* resources = config_.mutable_linux()->mutable_resources();
  resources->set_cpu_shares(1024);
  resources->set_oom_score_adj(-997);
  node_.oom_score_adj_floor = 0;
  const auto spec = Translate();
  ASSERT_TRUE(spec.ok()) << spec.status();
  EXPECT_EQ(spec->spec.linux_.resources->cpu->shares, 1024u);
  EXPECT_FALSE(spec->spec.linux_.resources->devices.empty());
  EXPECT_EQ(spec->spec.process->oom_score_adj, 0);
  // Status tells the adjustment that the container really has.
  sandbox::ContainerView view;
  view.metadata = spec->metadata;
  EXPECT_EQ(ContainerMetadata::Of(view).config().linux().resources().oom_score_adj(), 0);
}

TEST_F(TranslateContainerTest, VolumesAreMountedWhereTheWritableLayerIsNotEnough) {
  image_.config.volumes = {"/data", "/"};
  const auto has_volume = [](const absl::StatusOr<sandbox::ContainerSpec>& spec) {
    for (const auto& mount : spec->spec.mounts) {
      if (mount.destination == "/data" && mount.type == "tmpfs") return true;
    }
    return false;
  };
  EXPECT_FALSE(has_volume(Translate()));
  inputs_.missing_volumes = {"/data"};
  EXPECT_TRUE(has_volume(Translate()));
  inputs_.missing_volumes = {};
  security()->set_readonly_rootfs(true);
  EXPECT_TRUE(has_volume(Translate()));
  auto* mount = config_.add_mounts();
  mount->set_container_path("/data");
  mount->set_host_path("/srv");
  EXPECT_FALSE(has_volume(Translate()));
}

TEST_F(TranslateContainerTest, StopSignalsComeFromCriThenTheImageThenSigterm) {
  config_.set_stop_signal(v1::SIGNAL_SIGKILL);
  EXPECT_EQ(Translate()->stop_signal, 9);
  config_.clear_stop_signal();
  image_.config.stop_signal = "nonsense";
  EXPECT_EQ(Translate()->stop_signal, 15);
}

TEST_F(TranslateContainerTest, WithoutALogPathOrDirectoryThereIsNoLog) {
  config_.clear_log_path();
  EXPECT_EQ(Translate()->log_path, "");
  config_.set_log_path("x.log");
  pod_config_.clear_log_directory();
  EXPECT_EQ(Translate()->log_path, "");
}

TEST_F(TranslateContainerTest, TheUserRequestIsReadFromTheRightFields) {
  security()->mutable_run_as_user()->set_value(0);
  security()->mutable_run_as_group()->set_value(7);
  security()->set_run_as_username("name");
  security()->add_supplemental_groups(9);
  security()->set_supplemental_groups_policy(v1::Strict);
  image_.config.user = "img";
  const UserRequest request = RequestedUser(config_, image_.config);
  EXPECT_EQ(request.run_as_user, 0);
  EXPECT_EQ(request.run_as_group, 7);
  EXPECT_EQ(request.run_as_username, "name");
  EXPECT_EQ(request.image_user, "img");
  EXPECT_EQ(request.supplemental_groups, std::vector<int64_t>{9});
  EXPECT_TRUE(request.strict_groups);
  EXPECT_FALSE(RequestedUser(v1::ContainerConfig(), image_.config).run_as_user.has_value());
}

TEST_F(TranslateContainerTest, WhatCannotBeIsSaidBeforeTheImageIsLookedUp) {
  EXPECT_TRUE(CheckContainer(config_).ok());
  v1::ContainerConfig config = config_;
  config.clear_metadata();
  EXPECT_EQ(CheckContainer(config).code(), absl::StatusCode::kInvalidArgument);
  config = config_;
  config.mutable_metadata()->clear_name();
  EXPECT_EQ(CheckContainer(config).code(), absl::StatusCode::kInvalidArgument);
  config = config_;
  config.mutable_image()->clear_image();
  EXPECT_EQ(CheckContainer(config).code(), absl::StatusCode::kInvalidArgument);
  for (const char* log : {"../x", "a/../../x", ".."}) {
    config = config_;
    config.set_log_path(log);
    EXPECT_EQ(CheckContainer(config).code(), absl::StatusCode::kInvalidArgument) << log;
  }
  config = config_;
  config.add_cdi_devices()->set_name("vendor.com/gpu=0");
  EXPECT_EQ(CheckContainer(config).code(), absl::StatusCode::kUnimplemented);
}

}  // namespace
}  // namespace davit::cri

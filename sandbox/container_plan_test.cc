#include "sandbox/container_plan.h"

#include <algorithm>

#include "gtest/gtest.h"

namespace davit::sandbox {
namespace {

using runtime::spec::NamespaceType;
using runtime::spec::Spec;

const runtime::spec::Namespace* Find(const Spec& spec, NamespaceType type) {
  for (const auto& entry : spec.linux_.namespaces) {
    if (entry.type == type) return &entry;
  }
  return nullptr;
}

PodTraits SomePod() {
  PodTraits pod;
  pod.netns_path = "/run/netns/davit-x";
  pod.supervisor_pid = 100;
  return pod;
}

TEST(ContainerPlanTest, ThePodsNamespacesReplaceWhatTheSpecSays) {
  Spec spec;
  spec.linux_.namespaces = {{NamespaceType::kNetwork, "/proc/1/ns/net"},
                            {NamespaceType::kCgroup, ""}};
  spec.hostname = "x";
  CompleteSpec(SomePod(), {NamespaceMode::kContainer}, "/pod/c", &spec);
  EXPECT_EQ(Find(spec, NamespaceType::kNetwork)->path, "/run/netns/davit-x");
  EXPECT_EQ(Find(spec, NamespaceType::kUts)->path, "/proc/100/ns/uts");
  EXPECT_EQ(Find(spec, NamespaceType::kIpc)->path, "/proc/100/ns/ipc");
  EXPECT_EQ(Find(spec, NamespaceType::kPid)->path, "");
  EXPECT_NE(Find(spec, NamespaceType::kCgroup), nullptr) << "that one is the caller's";
  EXPECT_NE(Find(spec, NamespaceType::kMount), nullptr);
  EXPECT_EQ(spec.hostname, "");
  EXPECT_EQ(spec.linux_.cgroups_path, "/pod/c");
}

TEST(ContainerPlanTest, APodsUserNamespaceIsItsContainersToo) {
  PodTraits pod = SomePod();
  pod.uid_mappings = {{0, 100000, 65536}};
  pod.gid_mappings = {{0, 200000, 65536}};
  Spec spec;
  CompleteSpec(pod, {NamespaceMode::kContainer}, "/pod/c", &spec);
  EXPECT_NE(Find(spec, NamespaceType::kUser), nullptr);
  ASSERT_EQ(spec.linux_.gid_mappings.size(), 1u);
  EXPECT_EQ(spec.linux_.gid_mappings[0].host_id, 200000u);
  CompleteSpec(SomePod(), {NamespaceMode::kContainer}, "/pod/c", &spec);
  EXPECT_EQ(Find(spec, NamespaceType::kUser), nullptr);
  EXPECT_TRUE(spec.linux_.uid_mappings.empty());
}

TEST(ContainerPlanTest, TheNodesNamespacesAreThoseThatAreNotNamed) {
  PodTraits pod = SomePod();
  pod.network = pod.ipc = NamespaceMode::kNode;
  Spec spec;
  spec.mounts.push_back({"/dev/shm", "tmpfs", "shm", {"size=65536k"}});
  CompleteSpec(pod, {NamespaceMode::kNode}, "/pod/c", &spec);
  for (NamespaceType type :
       {NamespaceType::kNetwork, NamespaceType::kUts, NamespaceType::kIpc, NamespaceType::kPid}) {
    EXPECT_EQ(Find(spec, type), nullptr);
  }
  EXPECT_EQ(spec.mounts[0].source, "/dev/shm");
  EXPECT_EQ(spec.mounts[0].type, "bind");
}

TEST(ContainerPlanTest, PidNamespacesFollowTheMode) {
  PodTraits pod = SomePod();
  pod.init_pid = 7;
  const auto path = [&](ContainerNamespaces container) {
    Spec spec;
    CompleteSpec(pod, container, "/c", &spec);
    return Find(spec, NamespaceType::kPid)->path;
  };
  EXPECT_EQ(path({NamespaceMode::kPod}), "/proc/7/ns/pid");
  EXPECT_EQ(path({NamespaceMode::kContainer}), "");
  EXPECT_EQ(path({NamespaceMode::kTarget, 42}), "/proc/42/ns/pid");
  EXPECT_TRUE(JoinsPidNamespace(pod, {NamespaceMode::kPod}));
  EXPECT_FALSE(JoinsPidNamespace(SomePod(), {NamespaceMode::kPod})) << "none to join";
}

runtime::cgroup::Layout Hybrid() {
  runtime::cgroup::Layout layout;
  layout.hierarchies = {{"/sys/fs/cgroup/devices", {"devices"}, false, ""},
                        {"/sys/fs/cgroup/memory", {"memory"}, false, ""},
                        {"/sys/fs/cgroup/systemd", {}, false, "systemd"},
                        {"/sys/fs/cgroup/unified", {}, true, ""}};
  return layout;
}

TEST(ContainerPlanTest, TheNodesLimitsReachThePlan) {
  NodeTraits node;
  node.layout = Hybrid();
  node.limits.capability_ceiling = 5;
  node.limits.oom_score_adj_floor = 0;
  node.state_directory = "/run/davit";
  node.refuse_missing_host_paths = true;
  Spec spec;
  CompleteSpec(SomePod(), {NamespaceMode::kContainer}, "/pod/c", &spec);
  const auto inputs =
      MakeCreateInputs(node, SomePod(), {NamespaceMode::kContainer}, "c", "/bundle", spec);
  ASSERT_TRUE(inputs.ok()) << inputs.status();
  EXPECT_EQ(inputs->capability_ceiling, 5u);
  EXPECT_EQ(inputs->oom_score_adj_floor, 0);
  EXPECT_FALSE(inputs->create_missing_bind_sources);
  EXPECT_TRUE(inputs->pod_shm);
  EXPECT_FALSE(inputs->join_pid_namespace);
  EXPECT_EQ(inputs->own_paths, std::vector<std::string>{"/run/davit"});
  const auto exec = MakeExecInputs(node, "c", "7", "/pod/c");
  EXPECT_EQ(exec.exec_leaf, "exec-7");
  EXPECT_EQ(exec.cgroups.size(), 4u);
}

}  // namespace
}  // namespace davit::sandbox

#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include <string>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "proto/state.pb.h"
#include "proto/supervisor.pb.h"
#include "proto/upgrade.pb.h"
#include "runtime/sys/file.h"
#include "sandbox/records.h"
#include "sandbox/status_record.h"
#include "sandbox/supervisor/state_format.h"

// Files of every format that was ever written, in testdata/format_<n>, which has to be read for
// ever. They are never changed. A new format gets a directory of its own, with what
// DAVIT_WRITE_EXAMPLES=<directory> makes this test write, and tests beside those of the old ones.
namespace davit::sandbox {
namespace {

state::v1::PodRecord Pod() {
  state::v1::PodRecord record;
  record.set_format_version(1);
  record.set_boot_id("c0ffee00-1111-2222-3333-444444444444");
  record.set_id(std::string(64, 'a'));
  record.set_created_at(1700000000123456789);
  record.set_ready(true);
  record.set_reason("SupervisorLost");
  record.set_name_key("web_default_uid_1");
  record.set_name("web");
  record.set_name_space("default");
  record.set_uid("uid");
  record.set_hostname("web-0");
  record.set_cgroup_parent("/kubepods/podx");
  record.set_network_mode(0);
  record.set_ipc_mode(2);
  record.set_pid_mode(1);
  (*record.mutable_sysctls())["net.ipv4.ip_forward"] = "1";
  record.set_has_dns(true);
  record.add_dns_servers("10.96.0.10");
  record.add_dns_searches("svc.cluster.local");
  record.add_dns_options("ndots:5");
  auto* port = record.add_port_mappings();
  port->set_protocol("tcp");
  port->set_container_port(80);
  port->set_host_port(8080);
  port->set_host_ip("127.0.0.1");
  (*record.mutable_annotations())["key"] = "\xff value";
  record.set_runtime_handler("runc");
  record.set_metadata(std::string("\0meta", 5));
  record.set_cgroup_path("/kubepods/podx");
  record.set_owns_cgroup(true);
  record.set_supervisor_cgroup("/sys/fs/cgroup/davit-pod-x");
  record.set_supervisor_pid(4242);
  record.set_netns_path("/run/netns/davit-x");
  record.add_ips("10.88.0.7");
  record.add_ips("fd00::7");
  record.set_cni_result("{}");
  return record;
}

state::v1::ContainerRecord Container() {
  state::v1::ContainerRecord record;
  record.set_format_version(1);
  record.set_boot_id("c0ffee00-1111-2222-3333-444444444444");
  record.set_id(std::string(64, 'b'));
  record.set_pod_id(std::string(64, 'a'));
  record.set_created_at(1700000000123456789);
  record.set_name_key("c_web_default_uid_0");
  record.set_image_id("sha256:1234");
  record.set_pid_mode(3);
  record.set_pid_target(std::string(64, 'c'));
  record.set_log_path("/var/log/pods/x/0.log");
  record.set_stdin(true);
  record.set_stdin_once(true);
  record.set_tty(true);
  record.set_stop_signal(10);
  record.set_metadata(std::string("\0meta", 5));
  record.set_cgroup_path("/kubepods/podx/b");
  record.add_lower_dirs("/var/lib/davit/images/layers/2");
  record.add_lower_dirs("/var/lib/davit/images/layers/1");
  record.set_ended(true);
  record.set_exit_code(137);
  record.set_started_at(1700000001000000000);
  record.set_finished_at(1700000002000000000);
  record.set_reason("SupervisorLost");
  record.set_message("lost");
  return record;
}

supervisor::v1::ContainerState Status() {
  supervisor::v1::ContainerState state;
  state.set_container_id(std::string(64, 'b'));
  state.set_phase(supervisor::v1::ContainerState::EXITED);
  state.set_created_at(1700000000000000000);
  state.set_started_at(1700000001000000000);
  state.set_finished_at(1700000002000000000);
  state.set_wait_status(9);
  state.set_oom_killed(true);
  state.set_start_errno(2);
  state.set_message("no such file");
  return state;
}

void FillSession(upgrade::v1::SessionState* session) {
  session->set_phase(upgrade::v1::SessionState::CREATED);
  session->set_pid(4243);
  session->set_pidfd(10);
  session->add_cgroups("/sys/fs/cgroup/kubepods/podx/b");
  session->set_new_pid_namespace(true);
  session->set_terminal(true);
  auto* launch = session->mutable_launch();
  launch->add_groups()->set_directory("/sys/fs/cgroup/kubepods/podx/b");
  launch->mutable_groups(0)->set_made(1);
  launch->add_steps()->set_number(30);
  launch->mutable_steps(0)->set_operation("exec");
  launch->mutable_steps(0)->set_object("/bin/sh");
  launch->set_shared_layout(1);
  launch->set_report(11);
  launch->set_shared(12);
  launch->set_rootfs_clone(13);
  launch->set_cgroup(14);
}

// Of a supervisor, as it hands it to the program that takes its place.
upgrade::v1::SupervisorState State() {
  upgrade::v1::SupervisorState state;
  state.set_format_version(1);
  state.set_oldest_reader(1);
  state.set_writer("0.1.0");
  auto* descriptor = state.add_descriptors();
  descriptor->set_number(10);
  descriptor->set_device(5);
  descriptor->set_inode(6);
  descriptor->set_mode(0100600);
  state.mutable_config()->set_protocol_version(2);
  state.mutable_config()->set_sandbox_id(std::string(64, 'a'));
  state.mutable_config()->set_pod_dir("/run/davit/pods/a");
  state.mutable_config()->set_program_id("f00d");
  state.mutable_pod()->set_mount_namespace(20);
  state.mutable_pod()->set_user_namespace(21);
  state.mutable_pod()->set_init_pid(4244);
  state.mutable_pod()->set_init_pidfd(22);
  state.mutable_server()->set_listener(23);
  state.mutable_server()->set_socket(24);
  state.mutable_server()->set_connection(7);
  state.mutable_server()->set_greeted(true);
  state.mutable_upgrade()->set_connection(7);
  state.mutable_upgrade()->set_request_id(99);
  auto* container = state.add_containers();
  *container->mutable_state() = Status();
  container->set_record(30);
  FillSession(container->mutable_session());
  container->mutable_cgroup()->set_memory(31);
  container->mutable_cgroup()->set_memory_is_v1(true);
  container->mutable_cgroup()->set_members(32);
  container->mutable_cgroup()->set_event(33);
  container->mutable_cgroup()->set_oom_control(34);
  container->mutable_cgroup()->set_told(1);
  auto* log = container->mutable_log();
  log->set_path("/var/log/pods/x/0.log");
  log->set_tty(true);
  log->set_file(35);
  log->mutable_out()->set_fd(36);
  log->mutable_out()->set_kept("half a line");
  log->mutable_err()->set_fd(37);
  log->set_unwritten("2023-11-14T22:13:20.000000000Z stdout F x\n");
  log->set_line_start(0);
  log->set_write_at(5);
  log->set_write_error(28);
  log->set_finishing(true);
  log->set_finish_deadline(123456);
  container->set_log_path("/var/log/pods/x/0.log");
  container->set_stdin(38);
  container->set_console(39);
  container->set_ended(true);
  container->set_exit_told(true);
  FillSession(container->add_leftovers());
  auto* exec = state.add_execs();
  exec->set_exec_id("e");
  exec->set_container_id(std::string(64, 'b'));
  exec->set_connection(7);
  FillSession(exec->mutable_session());
  exec->set_deadline(987654321);
  exec->set_timed_out(true);
  exec->set_killed(true);
  return state;
}

std::string Example(const std::string& name) {
  const std::string path = absl::StrCat("sandbox/testdata/format_1/", name);
  auto data = sys::ReadFileAt(AT_FDCWD, path, 1 << 20);
  EXPECT_TRUE(data.ok()) << data.status();
  return data.value_or("");
}

TEST(FormatsTest, RecordsOfFormatOneAreRead) {
  const auto pod = ReadPodRecord("sandbox/testdata/format_1/pod");
  ASSERT_TRUE(pod.ok()) << pod.status();
  EXPECT_EQ(pod->SerializeAsString(), Pod().SerializeAsString());
  const auto container = ReadContainerRecord("sandbox/testdata/format_1/container");
  ASSERT_TRUE(container.ok()) << container.status();
  EXPECT_EQ(container->SerializeAsString(), Container().SerializeAsString());
}

TEST(FormatsTest, AStatusRecordOfFormatOneIsRead) {
  const auto status = ReadStatus("sandbox/testdata/format_1/container/status");
  ASSERT_TRUE(status.ok()) << status.status();
  EXPECT_EQ(status->SerializeAsString(), Status().SerializeAsString());
}

TEST(FormatsTest, AStateOfFormatOneIsTakenOver) {
  const auto state = ParseState(Example("supervisor_state"));
  ASSERT_TRUE(state.ok()) << state.status();
  EXPECT_EQ(state->SerializeAsString(), State().SerializeAsString());
}

TEST(FormatsTest, AStateThatNeedsANewerReaderIsRefusedWithBothVersions) {
  auto state = State();
  state.set_format_version(kStateFormat + 5);
  EXPECT_TRUE(ParseState(state.SerializeAsString()).ok()) << "it uses nothing that is newer";
  state.set_oldest_reader(kStateFormat + 1);
  state.set_writer("9.9");
  const auto refused = ParseState(state.SerializeAsString());
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_NE(refused.status().message().find("davit-pod 9.9 needs format"), std::string::npos)
      << refused.status();
  EXPECT_EQ(ParseState("garbage").status().code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(ParseState("").status().code(), absl::StatusCode::kDataLoss);
}

// A format that changes without a new version would be read wrongly by what is installed.
TEST(FormatsTest, WhatIsWrittenTodayIsWhatTheExamplesHold) {
  const char* kept = getenv("DAVIT_WRITE_EXAMPLES");
  char pattern[] = "/tmp/davit-formats-XXXXXX";
  const std::string directory = kept != nullptr ? kept : mkdtemp(pattern);
  ASSERT_TRUE(sys::MakeDirs(directory + "/pod", 0755).ok());
  ASSERT_TRUE(sys::MakeDirs(directory + "/container", 0755).ok());
  ASSERT_TRUE(WritePodRecord(directory + "/pod", Pod()).ok());
  ASSERT_TRUE(WriteContainerRecord(directory + "/container", Container()).ok());
  auto status = StatusWriter::Open(directory + "/container/status");
  ASSERT_TRUE(status.ok()) << status.status();
  ASSERT_TRUE(status->Write(Status()).ok());
  auto top = sys::OpenDirAt(AT_FDCWD, directory);
  ASSERT_TRUE(top.ok());
  ASSERT_TRUE(sys::WriteFileAtomic(top->get(), "supervisor_state", State().SerializeAsString(),
                                   0644, sys::Durability::kProcess)
                  .ok());
  if (kept != nullptr) return;
  for (const char* name :
       {"pod/record", "container/record", "container/status", "supervisor_state"}) {
    EXPECT_EQ(sys::ReadFileAt(AT_FDCWD, absl::StrCat(directory, "/", name), 1 << 20).value_or(""),
              Example(name))
        << name;
  }
  EXPECT_TRUE(sys::RemoveTreeAt(AT_FDCWD, directory).ok());
}

}  // namespace
}  // namespace davit::sandbox

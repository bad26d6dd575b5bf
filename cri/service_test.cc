#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "absl/strings/match.h"
#include "cri/service_fixture.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "proto/api.pb.h"

// Debian's gRPC and Abseil are not instrumented, so ThreadSanitizer takes every message that gRPC
// hands from thread to thread for a race; ignoring calls from those libraries makes it lose the
// locks as well. A build with it has no tests here.
#if !defined(__SANITIZE_THREAD__)

namespace davit::cri {
namespace {

using grpc::StatusCode;

TEST_F(ServiceTest, VersionStatusAndRuntimeConfigAreWhatClientsDemand) {
  v1::VersionResponse version;
  ASSERT_TRUE(Runtime("Version", v1::VersionRequest(), &version).ok());
  EXPECT_EQ(version.runtime_name(), "davit");
  EXPECT_EQ(version.runtime_api_version(), "v1");
  EXPECT_FALSE(version.version().empty());
  EXPECT_FALSE(version.runtime_version().empty());

  v1::StatusRequest request;
  request.set_verbose(true);
  v1::StatusResponse status;
  ASSERT_TRUE(Runtime("Status", request, &status).ok());
  ASSERT_EQ(status.status().conditions_size(), 2);
  EXPECT_EQ(status.status().conditions(0).type(), "RuntimeReady");
  EXPECT_TRUE(status.status().conditions(0).status());
  EXPECT_EQ(status.status().conditions(1).type(), "NetworkReady");
  EXPECT_TRUE(status.status().conditions(1).status());
  ASSERT_EQ(status.runtime_handlers_size(), 2);
  EXPECT_EQ(status.runtime_handlers(0).name(), "");
  EXPECT_EQ(status.runtime_handlers(1).name(), "davit");
  EXPECT_TRUE(status.runtime_handlers(1).features().recursive_read_only_mounts());
  EXPECT_TRUE(status.runtime_handlers(1).features().user_namespaces());
  EXPECT_TRUE(status.features().supplemental_groups_policy());
  EXPECT_EQ(nlohmann::json::parse(status.info().at("config"))["stateDir"], "/run/davit");
  EXPECT_EQ(nlohmann::json::parse(status.info().at("cniconfig"))["name"], "fake");

  v1::RuntimeConfigResponse config;
  ASSERT_TRUE(Runtime("RuntimeConfig", v1::RuntimeConfigRequest(), &config).ok());
  EXPECT_EQ(config.linux().cgroup_driver(), v1::CGROUPFS);
  v1::UpdateRuntimeConfigResponse updated;
  EXPECT_TRUE(Runtime("UpdateRuntimeConfig", v1::UpdateRuntimeConfigRequest(), &updated).ok());
}

TEST_F(ServiceTest, AMethodThatIsNotBuiltSaysItsName) {
  v1::AttachResponse response;
  const grpc::Status status = Runtime("Attach", v1::AttachRequest(), &response);
  EXPECT_EQ(status.error_code(), StatusCode::UNIMPLEMENTED);
  EXPECT_TRUE(absl::StrContains(status.error_message(), "runtime.v1.RuntimeService/Attach"));
}

TEST_F(ServiceTest, TheSocketIsForRootAndItsGroup) {
  struct stat st;
  ASSERT_EQ(::stat(socket_.c_str(), &st), 0);
  EXPECT_TRUE(S_ISSOCK(st.st_mode));
  EXPECT_EQ(st.st_mode & 0777, 0660u);
}

TEST_F(ServiceTest, APodFromRunToRemoval) {
  const std::string id = RunPod("web");
  v1::PodSandboxStatusRequest request;
  request.set_pod_sandbox_id(id.substr(0, 6));  // a prefix
  request.set_verbose(true);
  v1::PodSandboxStatusResponse response;
  ASSERT_TRUE(Runtime("PodSandboxStatus", request, &response).ok());
  const v1::PodSandboxStatus& status = response.status();
  EXPECT_EQ(status.id(), id);
  EXPECT_EQ(status.metadata().name(), "web");
  EXPECT_EQ(status.metadata().namespace_(), "default");
  EXPECT_EQ(status.state(), v1::SANDBOX_READY);
  EXPECT_GT(status.created_at(), 0);
  EXPECT_EQ(status.network().ip(), "10.1.0.2");
  ASSERT_EQ(status.network().additional_ips_size(), 1);
  EXPECT_EQ(status.network().additional_ips(0).ip(), "fd00::2");
  EXPECT_EQ(status.labels().at("app"), "web");
  EXPECT_EQ(status.annotations().at("note"), "kept");
  EXPECT_GT(response.timestamp(), 0);
  const auto info = nlohmann::json::parse(response.info().at("info"));
  EXPECT_EQ(info["pid"], 77);
  EXPECT_EQ(info["config"]["metadata"]["name"], "web");
  EXPECT_EQ(info["cniResult"]["cniVersion"], "1.0.0");

  v1::RunPodSandboxResponse again;
  EXPECT_EQ(Runtime("RunPodSandbox", PodRequest("web"), &again).error_code(),
            StatusCode::ALREADY_EXISTS);

  v1::StopPodSandboxRequest stop;
  stop.set_pod_sandbox_id(id);
  v1::StopPodSandboxResponse stopped;
  EXPECT_TRUE(Runtime("StopPodSandbox", stop, &stopped).ok());
  EXPECT_TRUE(Runtime("StopPodSandbox", stop, &stopped).ok());
  ASSERT_TRUE(Runtime("PodSandboxStatus", request, &response).ok());
  EXPECT_EQ(response.status().state(), v1::SANDBOX_NOTREADY);
  EXPECT_EQ(response.status().network().ip(), "");

  v1::RemovePodSandboxRequest remove;
  remove.set_pod_sandbox_id(id);
  v1::RemovePodSandboxResponse removed;
  EXPECT_TRUE(Runtime("RemovePodSandbox", remove, &removed).ok());
  EXPECT_TRUE(Runtime("RemovePodSandbox", remove, &removed).ok());
  EXPECT_EQ(Runtime("PodSandboxStatus", request, &response).error_code(), StatusCode::NOT_FOUND);
}

TEST_F(ServiceTest, AContainerFromCreationToRemoval) {
  const std::string pod = RunPod("web");
  v1::CreateContainerRequest create = ContainerRequest(pod, "app");
  create.mutable_config()->set_stop_signal(v1::SIGNAL_SIGUSR1);
  auto* mount = create.mutable_config()->add_mounts();
  mount->set_container_path("/data");
  mount->set_host_path("/tmp");
  const std::string id = Create(create);

  const sandbox::ContainerSpec spec = manager_.last_container();
  EXPECT_EQ(spec.name_key, "app_web_default_uid-web_0");
  EXPECT_EQ(spec.spec.process->args, std::vector<std::string>{"sh"});
  EXPECT_EQ(spec.spec.process->user.uid, 1000u);
  EXPECT_EQ(spec.spec.process->user.gid, 100u);
  EXPECT_EQ(spec.stop_signal, 10);

  v1::ContainerStatusResponse response = Status(id, true);
  EXPECT_EQ(response.status().state(), v1::CONTAINER_CREATED);
  EXPECT_EQ(response.status().metadata().name(), "app");
  EXPECT_GT(response.status().created_at(), 0);
  EXPECT_EQ(response.status().image().image(), "busybox:1");
  EXPECT_EQ(response.status().image_ref(), kImageId);
  EXPECT_EQ(response.status().image_id(), kImageId);
  EXPECT_EQ(response.status().log_path(), "/var/log/pods/web/app/0.log");
  ASSERT_EQ(response.status().mounts_size(), 1);
  EXPECT_EQ(response.status().mounts(0).container_path(), "/data");
  EXPECT_EQ(response.status().user().linux().uid(), 1000);
  EXPECT_EQ(response.status().user().linux().gid(), 100);
  EXPECT_EQ(response.status().user().linux().supplemental_groups_size(), 2);
  EXPECT_EQ(response.status().stop_signal(), v1::SIGNAL_SIGUSR1);
  const auto info = nlohmann::json::parse(response.info().at("info"));
  EXPECT_EQ(info["sandboxID"], pod);
  EXPECT_EQ(info["config"]["metadata"]["name"], "app");

  v1::StartContainerRequest start;
  start.set_container_id(id);
  v1::StartContainerResponse started;
  EXPECT_TRUE(Runtime("StartContainer", start, &started).ok());
  EXPECT_EQ(Runtime("StartContainer", start, &started).error_code(),
            StatusCode::FAILED_PRECONDITION);
  EXPECT_EQ(Status(id).status().state(), v1::CONTAINER_RUNNING);
  EXPECT_GT(Status(id).status().started_at(), 0);

  v1::StopContainerRequest stop;
  stop.set_container_id(id);
  stop.set_timeout(7);
  v1::StopContainerResponse stopped;
  EXPECT_TRUE(Runtime("StopContainer", stop, &stopped).ok());
  EXPECT_EQ(manager_.last_stop_timeout(), absl::Seconds(7));
  response = Status(id);
  EXPECT_EQ(response.status().state(), v1::CONTAINER_EXITED);
  EXPECT_EQ(response.status().exit_code(), 143);
  EXPECT_EQ(response.status().reason(), "Error");
  EXPECT_GT(response.status().finished_at(), 0);

  v1::RemoveContainerRequest remove;
  remove.set_container_id(id);
  v1::RemoveContainerResponse removed;
  EXPECT_TRUE(Runtime("RemoveContainer", remove, &removed).ok());
  EXPECT_TRUE(Runtime("RemoveContainer", remove, &removed).ok());
}

TEST_F(ServiceTest, ListsAreFilteredAndStreamsGiveTheSame) {
  const std::string a = RunPod("a");
  const std::string b = RunPod("b");
  v1::ListPodSandboxRequest request;
  v1::ListPodSandboxResponse pods;
  ASSERT_TRUE(Runtime("ListPodSandbox", request, &pods).ok());
  EXPECT_EQ(pods.items_size(), 2);
  (*request.mutable_filter()->mutable_label_selector())["app"] = "b";
  ASSERT_TRUE(Runtime("ListPodSandbox", request, &pods).ok());
  ASSERT_EQ(pods.items_size(), 1);
  EXPECT_EQ(pods.items(0).id(), b);
  request.mutable_filter()->mutable_state()->set_state(v1::SANDBOX_NOTREADY);
  ASSERT_TRUE(Runtime("ListPodSandbox", request, &pods).ok());
  EXPECT_EQ(pods.items_size(), 0);

  const std::string c1 = Create(ContainerRequest(a, "one"));
  const std::string c2 = Create(ContainerRequest(b, "two"));
  v1::ListContainersRequest list;
  list.mutable_filter()->set_pod_sandbox_id(b.substr(0, 5));
  v1::ListContainersResponse containers;
  ASSERT_TRUE(Runtime("ListContainers", list, &containers).ok());
  ASSERT_EQ(containers.containers_size(), 1);
  EXPECT_EQ(containers.containers(0).id(), c2);
  EXPECT_EQ(containers.containers(0).image_id(), kImageId);
  list.mutable_filter()->Clear();
  list.mutable_filter()->mutable_state()->set_state(v1::CONTAINER_RUNNING);
  ASSERT_TRUE(Runtime("ListContainers", list, &containers).ok());
  EXPECT_EQ(containers.containers_size(), 0);

  // The streamed lists have one message here, so that they can be read as a unary call.
  v1::StreamContainersResponse stream;
  ASSERT_TRUE(Runtime("StreamContainers", v1::StreamContainersRequest(), &stream).ok());
  EXPECT_EQ(stream.containers_size(), 2);
  v1::StreamPodSandboxesResponse pod_stream;
  ASSERT_TRUE(Runtime("StreamPodSandboxes", v1::StreamPodSandboxesRequest(), &pod_stream).ok());
  EXPECT_EQ(pod_stream.pod_sandboxes_size(), 2);
  v1::StreamImagesResponse image_stream;
  ASSERT_TRUE(Image("StreamImages", v1::StreamImagesRequest(), &image_stream).ok());
  EXPECT_EQ(image_stream.images_size(), 1);
}

TEST_F(ServiceTest, ExecSyncCarriesBytesCodesAndTimeouts) {
  const std::string id = Create(ContainerRequest(RunPod("web"), "app"));
  manager_.exec_result = sandbox::ExecResult{std::string("a\0\xff", 3), "e", 3};
  v1::ExecSyncRequest request;
  request.set_container_id(id);
  request.add_cmd("true");
  request.set_timeout(5);
  v1::ExecSyncResponse response;
  ASSERT_TRUE(Runtime("ExecSync", request, &response).ok());
  EXPECT_EQ(response.stdout(), std::string("a\0\xff", 3));
  EXPECT_EQ(response.stderr(), "e");
  EXPECT_EQ(response.exit_code(), 3);
  EXPECT_EQ(manager_.last_exec().timeout, absl::Seconds(5));
  request.set_timeout(0);
  ASSERT_TRUE(Runtime("ExecSync", request, &response).ok());
  EXPECT_EQ(manager_.last_exec().timeout, absl::InfiniteDuration());

  manager_.exec_result = absl::DeadlineExceededError("timed out");
  EXPECT_EQ(Runtime("ExecSync", request, &response).error_code(), StatusCode::DEADLINE_EXCEEDED);
  request.clear_cmd();
  EXPECT_EQ(Runtime("ExecSync", request, &response).error_code(), StatusCode::INVALID_ARGUMENT);
}

TEST_F(ServiceTest, AnExecAnswerAsLargeAsAllowedFitsTheClientsLimit) {
  const std::string id = Create(ContainerRequest(RunPod("web"), "app"));
  v1::ExecSyncRequest request;
  request.set_container_id(id);
  request.add_cmd("cat");
  v1::ExecSyncResponse response;
  ASSERT_TRUE(Runtime("ExecSync", request, &response).ok());
  const size_t limit = manager_.last_exec().output_limit;
  manager_.exec_result =
      sandbox::ExecResult{std::string(limit / 2, 'x'), std::string(limit - limit / 2, 'y'), 0};
  const grpc::Status status = Runtime("ExecSync", request, &response);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(response.stdout().size() + response.stderr().size(), limit);
}

TEST_F(ServiceTest, AnUpdateOfResourcesShowsInTheStatusAndAFailedOneDoesNot) {
  v1::CreateContainerRequest create = ContainerRequest(RunPod("web"), "app");
  create.mutable_config()->mutable_linux()->mutable_resources()->set_cpu_shares(512);
  const std::string id = Create(create);
  v1::UpdateContainerResourcesRequest request;
  request.set_container_id(id);
  request.mutable_linux()->set_memory_limit_in_bytes(1 << 20);
  v1::UpdateContainerResourcesResponse response;
  ASSERT_TRUE(Runtime("UpdateContainerResources", request, &response).ok());
  EXPECT_EQ(manager_.last_resources().memory->limit, 1 << 20);
  EXPECT_EQ(Status(id).status().resources().linux().memory_limit_in_bytes(), 1 << 20);
  EXPECT_EQ(Status(id).status().resources().linux().cpu_shares(), 512);

  manager_.update_result = absl::ResourceExhaustedError("below what is used");
  request.mutable_linux()->set_memory_limit_in_bytes(5);
  EXPECT_EQ(Runtime("UpdateContainerResources", request, &response).error_code(),
            StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(Status(id).status().resources().linux().memory_limit_in_bytes(), 1 << 20);
  request.mutable_linux()->set_cpu_shares(-1);
  EXPECT_EQ(Runtime("UpdateContainerResources", request, &response).error_code(),
            StatusCode::INVALID_ARGUMENT);
}

TEST_F(ServiceTest, UnknownIdsAreNotFoundForStatusAndSuccessForStopAndRemove) {
  v1::PodSandboxStatusRequest pod_status;
  pod_status.set_pod_sandbox_id("nope");
  v1::PodSandboxStatusResponse pod_response;
  EXPECT_EQ(Runtime("PodSandboxStatus", pod_status, &pod_response).error_code(),
            StatusCode::NOT_FOUND);
  v1::ContainerStatusRequest status;
  status.set_container_id("nope");
  v1::ContainerStatusResponse response;
  EXPECT_EQ(Runtime("ContainerStatus", status, &response).error_code(), StatusCode::NOT_FOUND);
  v1::StartContainerRequest start;
  start.set_container_id("nope");
  v1::StartContainerResponse started;
  EXPECT_EQ(Runtime("StartContainer", start, &started).error_code(), StatusCode::NOT_FOUND);

  v1::StopPodSandboxRequest stop_pod;
  stop_pod.set_pod_sandbox_id("nope");
  v1::StopPodSandboxResponse pod_stopped;
  EXPECT_TRUE(Runtime("StopPodSandbox", stop_pod, &pod_stopped).ok());
  v1::RemovePodSandboxRequest remove_pod;
  remove_pod.set_pod_sandbox_id("nope");
  v1::RemovePodSandboxResponse pod_removed;
  EXPECT_TRUE(Runtime("RemovePodSandbox", remove_pod, &pod_removed).ok());
  v1::StopContainerRequest stop;
  stop.set_container_id("nope");
  v1::StopContainerResponse stopped;
  EXPECT_TRUE(Runtime("StopContainer", stop, &stopped).ok());
  v1::RemoveContainerRequest remove;
  remove.set_container_id("nope");
  v1::RemoveContainerResponse removed;
  EXPECT_TRUE(Runtime("RemoveContainer", remove, &removed).ok());
  // An empty id is no prefix of everything.
  RunPod("only");
  stop_pod.clear_pod_sandbox_id();
  EXPECT_EQ(Runtime("StopPodSandbox", stop_pod, &pod_stopped).error_code(),
            StatusCode::INVALID_ARGUMENT);
}

TEST_F(ServiceTest, BadContainersAreRefusedWithTheRightCode) {
  const std::string pod = RunPod("web");
  const auto code = [&](auto change) {
    v1::CreateContainerRequest request = ContainerRequest(pod, "app");
    change(&request);
    v1::CreateContainerResponse response;
    return Runtime("CreateContainer", request, &response).error_code();
  };
  using R = v1::CreateContainerRequest;
  EXPECT_EQ(code([](R* r) { r->clear_config(); }), StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(code([](R* r) { r->mutable_config()->clear_metadata(); }),
            StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(code([](R* r) { r->mutable_config()->clear_image(); }), StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(code([](R* r) { r->set_pod_sandbox_id("nope"); }), StatusCode::NOT_FOUND);
  EXPECT_EQ(code([](R* r) { r->mutable_config()->mutable_image()->set_image("nope"); }),
            StatusCode::NOT_FOUND);
  const auto security = [](R* r) {
    return r->mutable_config()->mutable_linux()->mutable_security_context();
  };
  EXPECT_EQ(code([&](R* r) { security(r)->mutable_run_as_group()->set_value(5); }),
            StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(code([&](R* r) { security(r)->set_run_as_username("stranger"); }),
            StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(code([&](R* r) { security(r)->set_privileged(true); }), StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(code([](R* r) { r->mutable_config()->set_log_path("../../etc/x"); }),
            StatusCode::INVALID_ARGUMENT);
  images::Image many;
  many.id = "many-volumes";
  many.config.cmd = {"sh"};
  for (int i = 0; i < 1000; ++i) many.config.volumes.push_back(absl::StrCat("/v", i));
  images_.Add(std::move(many));
  EXPECT_EQ(code([](R* r) { r->mutable_config()->mutable_image()->set_image("many-volumes"); }),
            StatusCode::FAILED_PRECONDITION);
  v1::ListContainersResponse list;
  ASSERT_TRUE(Runtime("ListContainers", v1::ListContainersRequest(), &list).ok());
  EXPECT_EQ(list.containers_size(), 0);
}

TEST_F(ServiceTest, ImagesAreListedFoundAndRemoved) {
  v1::ImageStatusRequest request;
  request.mutable_image()->set_image("busybox:1");
  request.set_verbose(true);
  v1::ImageStatusResponse response;
  ASSERT_TRUE(Image("ImageStatus", request, &response).ok());
  EXPECT_EQ(response.image().id(), kImageId);
  EXPECT_EQ(response.image().size(), 99u);
  EXPECT_EQ(response.image().username(), "app");
  EXPECT_FALSE(response.image().has_uid());
  EXPECT_EQ(nlohmann::json::parse(response.info().at("info"))["imageSpec"]["os"], "linux");

  v1::ListImagesRequest list;
  list.mutable_filter()->mutable_image()->set_image("other");
  v1::ListImagesResponse listed;
  ASSERT_TRUE(Image("ListImages", list, &listed).ok());
  EXPECT_EQ(listed.images_size(), 0);

  v1::RemoveImageRequest remove;
  remove.mutable_image()->set_image("busybox:1");
  v1::RemoveImageResponse removed;
  EXPECT_TRUE(Image("RemoveImage", remove, &removed).ok());
  EXPECT_TRUE(Image("RemoveImage", remove, &removed).ok());
  // Gone: success without an image.
  response.Clear();
  ASSERT_TRUE(Image("ImageStatus", request, &response).ok());
  EXPECT_FALSE(response.has_image());

  v1::ImageFsInfoResponse info;
  ASSERT_TRUE(Image("ImageFsInfo", v1::ImageFsInfoRequest(), &info).ok());
  ASSERT_EQ(info.image_filesystems_size(), 1);
  EXPECT_EQ(info.image_filesystems(0).fs_id().mountpoint(), "/var/lib/davit");
  EXPECT_EQ(info.image_filesystems(0).used_bytes().value(), 1234u);
}

TEST_F(ServiceTest, APullGivesTheImageIdAndItsErrorsKeepTheirMeaning) {
  v1::PullImageRequest request;
  request.mutable_image()->set_image("new:1");
  request.mutable_auth()->set_username("me");
  request.mutable_auth()->set_password("secret");
  request.mutable_sandbox_config();  // without metadata
  v1::PullImageResponse response;
  ASSERT_TRUE(Image("PullImage", request, &response).ok());
  EXPECT_EQ(response.image_ref(), "sha256:" + std::string(64, 'b'));
  EXPECT_EQ(images_.last_pull().credentials->password, "secret");

  request.mutable_image()->set_image("missing");
  EXPECT_EQ(Image("PullImage", request, &response).error_code(), StatusCode::NOT_FOUND);
  request.mutable_image()->set_image("down");
  const grpc::Status down = Image("PullImage", request, &response);
  EXPECT_EQ(down.error_code(), StatusCode::UNKNOWN);
  EXPECT_EQ(down.error_message(), "RegistryUnavailable: connection refused");
  request.mutable_image()->clear_image();
  EXPECT_EQ(Image("PullImage", request, &response).error_code(), StatusCode::INVALID_ARGUMENT);
  request.mutable_image()->set_image("new:1");
  request.mutable_image()->set_runtime_handler("kata");
  EXPECT_EQ(Image("PullImage", request, &response).error_code(), StatusCode::INVALID_ARGUMENT);
}

TEST_F(ServiceTest, APullWhoseClientGoesAwayIsCancelled) {
  v1::PullImageRequest request;
  request.mutable_image()->set_image("hang");
  v1::PullImageResponse response;
  const grpc::Status status =
      CallRaw("/runtime.v1.ImageService/PullImage", request, &response, absl::Milliseconds(50));
  EXPECT_EQ(status.error_code(), StatusCode::DEADLINE_EXCEEDED);
  EXPECT_TRUE(images_.pull_cancelled.WaitForNotificationWithTimeout(absl::Seconds(60)));
}

TEST_F(ServiceTest, ShutdownDoesNotWaitForACallThatHangs) {
  v1::PullImageRequest request;
  request.mutable_image()->set_image("hang");
  grpc::ClientContext context;
  std::string bytes = request.SerializeAsString();
  grpc::Slice slice(bytes);
  grpc::ByteBuffer in(&slice, 1);
  grpc::ByteBuffer out;
  absl::Notification done;
  grpc::Status status;
  stub_->UnaryCall(&context, "/runtime.v1.ImageService/PullImage", {}, &in, &out,
                   [&](grpc::Status s) {
                     status = std::move(s);
                     done.Notify();
                   });
  while (images_.last_pull().reference != "hang") absl::SleepFor(absl::Milliseconds(1));
  server_->Shutdown(absl::Milliseconds(10));
  done.WaitForNotification();
  EXPECT_FALSE(status.ok());
}

TEST_F(ServiceTest, AStaleSocketIsReplaced) {
  server_->Shutdown(absl::ZeroDuration());
  const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  ASSERT_LT(socket_.size(), sizeof(address.sun_path));
  socket_.copy(address.sun_path, socket_.size());
  ASSERT_EQ(::bind(fd, reinterpret_cast<const sockaddr*>(&address), sizeof(address)), 0);
  ::close(fd);
  Start();
  v1::VersionResponse version;
  stub_ = std::make_unique<grpc::GenericStub>(
      grpc::CreateChannel("unix:" + socket_, grpc::InsecureChannelCredentials()));
  EXPECT_TRUE(Runtime("Version", v1::VersionRequest(), &version).ok());
}

TEST_F(ServiceTest, AMalformedRequestIsInvalid) {
  // Field 1 of RunPodSandboxRequest is a message; a truncated one does not parse.
  grpc::ClientContext context;
  const std::string bytes = "\x0a\x7f";
  grpc::Slice slice(bytes);
  grpc::ByteBuffer in(&slice, 1);
  grpc::ByteBuffer out;
  absl::Notification done;
  grpc::Status status;
  stub_->UnaryCall(&context, "/runtime.v1.RuntimeService/RunPodSandbox", {}, &in, &out,
                   [&](grpc::Status s) {
                     status = std::move(s);
                     done.Notify();
                   });
  done.WaitForNotification();
  EXPECT_EQ(status.error_code(), StatusCode::INVALID_ARGUMENT);
}

}  // namespace
}  // namespace davit::cri

#endif  // !__SANITIZE_THREAD__

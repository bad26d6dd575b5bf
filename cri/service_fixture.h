#ifndef DAVIT_CRI_SERVICE_FIXTURE_H_
#define DAVIT_CRI_SERVICE_FIXTURE_H_

#include <fcntl.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "cri/container_service.h"
#include "cri/fakes.h"
#include "cri/image_methods.h"
#include "cri/node_service.h"
#include "cri/pod_service.h"
#include "cri/server.h"
#include "cri/worker_pool.h"
#include "gtest/gtest.h"
#include "proto/api.pb.h"

namespace davit::cri {

namespace v1 = ::runtime::v1;

// The whole service on a real unix socket, with the layers below faked.
class ServiceTest : public testing::Test {
 protected:
  ServiceTest() : images_({MakeLayer()}), workers_(8, 100, absl::Seconds(1)) {
    node_.capabilities = ~uint64_t{0} >> 23;
    node_.features.mount_setattr = true;
    node_.hostname = "the-node";
    images::Image image;
    image.id = kImageId;
    image.repo_tags = {"busybox:1"};
    image.repo_digests = {"busybox@sha256:1"};
    image.size = 99;
    image.config.cmd = {"sh"};
    image.config.user = "app:users";
    image.config_json = R"({"os":"linux"})";
    images_.Add(std::move(image));
  }

  void SetUp() override {
    socket_ = dir_ + "/davit.sock";
    Start();
    grpc::ChannelArguments arguments;
    arguments.SetMaxReceiveMessageSize(16 << 20);
    stub_ = std::make_unique<grpc::GenericStub>(grpc::CreateCustomChannel(
        "unix:" + socket_, grpc::InsecureChannelCredentials(), arguments));
  }

  void Start() {
    std::vector<Method> methods = NodeMethods({&manager_, node_, R"({"stateDir":"/run/davit"})"});
    for (auto& method : PodMethods(&manager_, {})) methods.push_back(std::move(method));
    for (auto& method : ContainerMethods(&manager_, &images_, node_)) {
      methods.push_back(std::move(method));
    }
    for (auto& method : ImageMethods(&images_)) methods.push_back(std::move(method));
    auto server = Server::Start({socket_}, std::move(methods), &workers_);
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
  }

  void TearDown() override {
    stub_ = nullptr;
    server_->Shutdown(absl::ZeroDuration());
    EXPECT_NE(::access(socket_.c_str(), F_OK), 0) << "the socket file is removed";
    ::unlink((dir_ + "/layer/etc/passwd").c_str());
    ::unlink((dir_ + "/layer/etc/group").c_str());
    ::rmdir((dir_ + "/layer/etc").c_str());
    ::rmdir((dir_ + "/layer").c_str());
    ::rmdir(dir_.c_str());
  }

  // A layer with users.
  std::string MakeLayer() {
    std::string pattern = testing::TempDir() + "/cri.XXXXXX";
    dir_ = ::mkdtemp(pattern.data());
    ::mkdir((dir_ + "/layer").c_str(), 0755);
    ::mkdir((dir_ + "/layer/etc").c_str(), 0755);
    Write("/layer/etc/passwd", "root:x:0:0::/root:\napp:x:1000:1000::/home/app:\n");
    Write("/layer/etc/group", "users:x:100:\nextra:x:50000:app\n");
    return dir_ + "/layer";
  }
  void Write(const std::string& name, const std::string& text) {
    const int fd = ::open((dir_ + name).c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
    EXPECT_EQ(::write(fd, text.data(), text.size()), static_cast<ssize_t>(text.size()));
    ::close(fd);
  }

  // One call by name, with a deadline far beyond what it needs.
  grpc::Status CallRaw(const std::string& method, const google::protobuf::Message& request,
                       google::protobuf::Message* response,
                       absl::Duration timeout = absl::Seconds(60)) {
    grpc::ClientContext context;
    context.set_deadline(absl::ToChronoTime(absl::Now() + timeout));
    std::string bytes = request.SerializeAsString();
    grpc::Slice slice(bytes);
    grpc::ByteBuffer in(&slice, 1);
    grpc::ByteBuffer out;
    grpc::Status status;
    absl::Notification done;
    stub_->UnaryCall(&context, method, {}, &in, &out, [&](grpc::Status s) {
      status = std::move(s);
      done.Notify();
    });
    done.WaitForNotification();
    if (!status.ok()) return status;
    grpc::Slice answer;
    EXPECT_TRUE(out.DumpToSingleSlice(&answer).ok());
    EXPECT_TRUE(response->ParseFromArray(answer.begin(), static_cast<int>(answer.size())));
    return status;
  }
  grpc::Status Runtime(const std::string& method, const google::protobuf::Message& request,
                       google::protobuf::Message* response) {
    return CallRaw("/runtime.v1.RuntimeService/" + method, request, response);
  }
  grpc::Status Image(const std::string& method, const google::protobuf::Message& request,
                     google::protobuf::Message* response) {
    return CallRaw("/runtime.v1.ImageService/" + method, request, response);
  }

  v1::RunPodSandboxRequest PodRequest(const std::string& name) {
    v1::RunPodSandboxRequest request;
    auto* metadata = request.mutable_config()->mutable_metadata();
    metadata->set_name(name);
    metadata->set_namespace_("default");
    metadata->set_uid("uid-" + name);
    (*request.mutable_config()->mutable_labels())["app"] = name;
    (*request.mutable_config()->mutable_annotations())["note"] = "kept";
    request.mutable_config()->set_log_directory("/var/log/pods/" + name);
    return request;
  }
  std::string RunPod(const std::string& name) {
    v1::RunPodSandboxResponse response;
    const grpc::Status status = Runtime("RunPodSandbox", PodRequest(name), &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return response.pod_sandbox_id();
  }
  v1::CreateContainerRequest ContainerRequest(const std::string& pod, const std::string& name) {
    v1::CreateContainerRequest request;
    request.set_pod_sandbox_id(pod);
    request.mutable_config()->mutable_metadata()->set_name(name);
    request.mutable_config()->mutable_image()->set_image("busybox:1");
    request.mutable_config()->set_log_path("app/0.log");
    (*request.mutable_config()->mutable_labels())["app"] = name;
    return request;
  }
  std::string Create(const v1::CreateContainerRequest& request) {
    v1::CreateContainerResponse response;
    const grpc::Status status = Runtime("CreateContainer", request, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return response.container_id();
  }
  v1::ContainerStatusResponse Status(const std::string& container, bool verbose = false) {
    v1::ContainerStatusRequest request;
    request.set_container_id(container);
    request.set_verbose(verbose);
    v1::ContainerStatusResponse response;
    const grpc::Status status = Runtime("ContainerStatus", request, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return response;
  }

  static constexpr char kImageId[] =
      "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
  std::string dir_;
  std::string socket_;
  FakeManager manager_;
  FakeImages images_;
  Node node_;
  WorkerPool workers_;
  std::unique_ptr<Server> server_;
  std::unique_ptr<grpc::GenericStub> stub_;
};

}  // namespace davit::cri

#endif  // DAVIT_CRI_SERVICE_FIXTURE_H_

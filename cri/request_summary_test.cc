#include "cri/request_summary.h"

#include "gtest/gtest.h"
#include "proto/api.pb.h"

namespace davit::cri {
namespace {

namespace v1 = ::runtime::v1;

TEST(RequestSummaryTest, NamesTheObject) {
  v1::ContainerStatusRequest status;
  status.set_container_id("c1");
  EXPECT_EQ(RequestSummary(status), "c1");

  v1::RunPodSandboxRequest run;
  run.mutable_config()->mutable_metadata()->set_name("web");
  run.mutable_config()->mutable_metadata()->set_namespace_("prod");
  EXPECT_EQ(RequestSummary(run), "prod/web");

  v1::CreateContainerRequest create;
  create.set_pod_sandbox_id("p1");
  create.mutable_config()->mutable_metadata()->set_name("app");
  EXPECT_EQ(RequestSummary(create), "p1 app");

  EXPECT_EQ(RequestSummary(v1::VersionRequest()), "");
}

TEST(RequestSummaryTest, ShowsNoCredentials) {
  v1::PullImageRequest pull;
  pull.mutable_image()->set_image("registry/app:1");
  pull.mutable_auth()->set_username("user");
  pull.mutable_auth()->set_password("secret");
  EXPECT_EQ(RequestSummary(pull), "registry/app:1");
}

}  // namespace
}  // namespace davit::cri

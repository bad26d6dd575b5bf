#include "sandbox/pod_files.h"

#include <fcntl.h>
#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "runtime/sys/file.h"

namespace davit::sandbox {
namespace {

class PodFilesTest : public ::testing::Test {
 protected:
  PodFilesTest() : directory_(absl::StrCat(testing::TempDir(), "/pod_files_test.", getpid())) {
    EXPECT_TRUE(sys::MakeDirs(directory_, 0700).ok());
  }
  ~PodFilesTest() override { EXPECT_TRUE(sys::RemoveTreeAt(AT_FDCWD, directory_).ok()); }
  std::string Read(const std::string& name) {
    auto content = sys::ReadFileAt(AT_FDCWD, absl::StrCat(directory_, "/", name), 1 << 20);
    return content.ok() ? *content : content.status().ToString();
  }
  const std::string directory_;
};

TEST_F(PodFilesTest, APodWithItsOwnDnsGetsExactlyThat) {
  DnsConfig dns;
  dns.servers = {"10.0.0.10", "fd00::a"};
  dns.searches = {"default.svc.cluster.local", "svc.cluster.local"};
  dns.options = {"ndots:5"};
  ASSERT_TRUE(WritePodFiles(directory_, "web-0", dns).ok());
  EXPECT_EQ(Read("hostname"), "web-0\n");
  EXPECT_EQ(Read("resolv.conf"),
            "search default.svc.cluster.local svc.cluster.local\n"
            "nameserver 10.0.0.10\nnameserver fd00::a\noptions ndots:5\n");
}

TEST_F(PodFilesTest, AnEmptyDnsConfigurationIsAnEmptyFile) {
  ASSERT_TRUE(WritePodFiles(directory_, "h", DnsConfig()).ok());
  EXPECT_EQ(Read("resolv.conf"), "");
}

TEST_F(PodFilesTest, WithoutValuesOfItsOwnThePodHasTheNodes) {
  ASSERT_TRUE(WritePodFiles(directory_, "", std::nullopt).ok());
  EXPECT_EQ(Read("hostname"), NodeName() + "\n");
  EXPECT_EQ(Read("hosts"), sys::ReadFileAt(AT_FDCWD, "/etc/hosts", 1 << 20).value_or(""));
  EXPECT_EQ(Read("resolv.conf"),
            sys::ReadFileAt(AT_FDCWD, "/etc/resolv.conf", 1 << 20).value_or(""));
}

TEST_F(PodFilesTest, ValuesThatWouldAddLinesAreRefused) {
  DnsConfig dns;
  dns.servers = {"1.1.1.1\nnameserver 6.6.6.6"};
  EXPECT_EQ(WritePodFiles(directory_, "h", dns).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(WritePodFiles(directory_, "a\nb", std::nullopt).code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(WritePodFiles(directory_, std::string(65, 'x'), std::nullopt).code(),
            absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace davit::sandbox

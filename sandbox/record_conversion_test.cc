#include "sandbox/record_conversion.h"

#include "gtest/gtest.h"
#include "proto/state.pb.h"

namespace davit::sandbox {
namespace {

class TextMetadata : public Metadata {
 public:
  explicit TextMetadata(std::string text) : text_(std::move(text)) {}
  std::string Serialize() const override { return text_; }

 private:
  const std::string text_;
};

MetadataCodec Codec() {
  auto parse = [](absl::string_view text) -> absl::StatusOr<MetadataPtr> {
    if (text == "bad") return absl::DataLossError("bad metadata");
    return std::make_shared<TextMetadata>(std::string(text));
  };
  return {parse, parse};
}

TEST(RecordConversionTest, APodComesBackFromItsRecordAsItWas) {
  PodView view;
  view.id = "p";
  view.state = PodState::kReady;
  view.created_at = 5;
  view.ips = {"10.0.0.2", "fd00::2"};
  view.netns_path = "/run/netns/davit-p";
  view.cgroup_path = "/davit/p";
  view.cni_result = "{}";
  view.pid = 77;
  view.spec.name_key = "n_ns_u_0";
  view.spec.hostname = "h";
  view.spec.network = NamespaceMode::kPod;
  view.spec.pid = NamespaceMode::kContainer;
  view.spec.sysctls = {{"a", "b"}};
  view.spec.dns = DnsConfig{{"1.1.1.1"}, {"x"}, {"ndots:2"}};
  view.spec.port_mappings = {{"tcp", 80, 8080, "127.0.0.1"}};
  view.spec.annotations = {{"k", "\xff"}};
  view.spec.uid_mappings = {{0, 100000, 65536}};
  view.spec.gid_mappings = {{0, 200000, 65536}};
  view.metadata = view.spec.metadata = std::make_shared<TextMetadata>("m");
  state::v1::PodRecord record, again;
  ToRecord(view, &record);
  const auto back = FromRecord(record, "/run/davit/pods/p", Codec());
  ASSERT_TRUE(back.ok()) << back.status();
  ToRecord(*back, &again);
  EXPECT_EQ(again.SerializeAsString(), record.SerializeAsString());
  ASSERT_EQ(back->spec.gid_mappings.size(), 1u);
  EXPECT_EQ(back->spec.gid_mappings[0].host_id, 200000u);
  EXPECT_EQ(back->resolv_conf_path, "/run/davit/pods/p/resolv.conf");
  EXPECT_EQ(back->spec.dns->servers, std::vector<std::string>{"1.1.1.1"});
}

TEST(RecordConversionTest, AnAbsentDnsConfigurationStaysAbsent) {
  PodView view;
  state::v1::PodRecord record;
  ToRecord(view, &record);
  EXPECT_FALSE(FromRecord(record, "/d", Codec())->spec.dns.has_value());
  view.spec.dns.emplace();
  ToRecord(view, &record);
  EXPECT_TRUE(FromRecord(record, "/d", Codec())->spec.dns.has_value());
}

TEST(RecordConversionTest, UnreadableMetadataIsAnErrorThatNamesTheObject) {
  state::v1::PodRecord record;
  record.set_id("p1");
  record.set_metadata("bad");
  const auto view = FromRecord(record, "/d", Codec());
  EXPECT_EQ(view.status().code(), absl::StatusCode::kDataLoss);
  EXPECT_NE(view.status().message().find("p1"), absl::string_view::npos);
}

TEST(RecordConversionTest, AContainerComesBackWithHowItEnded) {
  ContainerView view;
  view.id = "c";
  view.pod_id = "p";
  view.image_id = "sha256:1";
  view.log_path = "/var/log/c.log";
  view.stop_signal = 3;
  view.cgroup_path = "/davit/p/c";
  view.metadata = std::make_shared<TextMetadata>("m");
  ContainerSpec spec;
  spec.name_key = "key";
  spec.tty = true;
  state::v1::ContainerRecord record;
  ToRecord(view, spec, &record);
  EXPECT_TRUE(record.tty());
  auto back = FromRecord(record, "/dir", "/layer", Codec());
  ASSERT_TRUE(back.ok());
  EXPECT_EQ(back->state, ContainerState::kUnknown);
  EXPECT_EQ(back->upper_dir, "/layer/upper");
  EXPECT_EQ(back->bundle_dir, "/dir");
  EXPECT_EQ(back->stop_signal, 3);
  EXPECT_EQ(back->metadata->Serialize(), "m");
  record.set_ended(true);
  record.set_exit_code(137);
  record.set_reason("SupervisorLost");
  back = FromRecord(record, "/dir", "/layer", Codec());
  EXPECT_EQ(back->state, ContainerState::kExited);
  EXPECT_EQ(back->exit_code, 137);
}

}  // namespace
}  // namespace davit::sandbox

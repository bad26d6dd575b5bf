#include "sandbox/cni/record.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "sandbox/cni/json.h"

namespace davit::sandbox::cni {
namespace {

Record Example() {
  Record record;
  record.sandbox_id = "abc";
  record.netns_path = "/run/netns/x";
  record.interface = "eth0";
  record.config_json = R"({"name":"n","plugins":[{"type":"a"}]})";
  record.config_file = "/etc/cni/net.d/a.conflist";
  record.capability_args = R"({"dns":{}})";
  record.cni_args = "IgnoreUnknown=1";
  record.added = true;
  record.result_json = R"({"ips":[]})";
  return record;
}

class RecordStoreTest : public testing::Test {
 protected:
  void SetUp() override {
    char pattern[] = "/tmp/davit-cni-XXXXXX";
    ASSERT_NE(mkdtemp(pattern), nullptr);
    path_ = pattern;
    auto store = RecordStore::Open(path_ + "/cni");
    ASSERT_TRUE(store.ok()) << store.status();
    store_.emplace(*std::move(store));
  }
  void TearDown() override { EXPECT_TRUE(sys::RemoveTreeAt(AT_FDCWD, path_).ok()); }

  std::string path_;
  std::optional<RecordStore> store_;
};

TEST(RecordTest, ARecordReadsBackAsItWasWritten) {
  const auto record = DecodeRecord(EncodeRecord(Example()), "f");
  ASSERT_TRUE(record.ok()) << record.status();
  EXPECT_EQ(record->sandbox_id, "abc");
  EXPECT_EQ(record->netns_path, "/run/netns/x");
  EXPECT_EQ(record->interface, "eth0");
  EXPECT_EQ(record->config_json, Example().config_json);
  EXPECT_EQ(record->capability_args, Example().capability_args);
  EXPECT_EQ(record->cni_args, "IgnoreUnknown=1");
  EXPECT_TRUE(record->added);
  EXPECT_EQ(record->result_json, Example().result_json);
}

// testdata/attachment_version_<n>.json was written by that version, and is never changed.
TEST(RecordTest, RecordsOfEveryVersionAreRead) {
  std::ifstream file("sandbox/cni/testdata/attachment_version_1.json");
  std::stringstream text;
  text << file.rdbuf();
  const auto record = DecodeRecord(text.str(), "f");
  ASSERT_TRUE(record.ok()) << record.status();
  EXPECT_EQ(EncodeRecord(*record), EncodeRecord(Example()));
}

TEST(RecordTest, ARecordOfTheLargestAndDeepestPartsReadsBack) {
  Record record = Example();
  const std::string deep =
      std::string(kMaxJsonDepth - 3, '[') + std::string(kMaxJsonDepth - 3, ']');
  for (std::string* part : {&record.config_json, &record.capability_args, &record.result_json}) {
    *part = absl::StrCat(R"({"deep":)", deep, R"(,"ips":[],"large":")",
                         std::string(kMaxJson - 1000, 'x'), "\"}");
    ASSERT_TRUE(ParseJson(*part, "part").ok());
  }
  const auto read = DecodeRecord(EncodeRecord(record), "f");
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->result_json.size(), record.result_json.size());
}

TEST(RecordTest, ARecordThatCannotBeReadIsDataLoss) {
  for (const char* text :
       {"", "{}", "[]", R"({"version":2,"sandboxId":"a"})", R"({"version":1})",
        R"({"version":1,"sandboxId":"../a","interface":"eth0","config":{},"capabilityArgs":{}})"}) {
    EXPECT_EQ(DecodeRecord(text, "f").status().code(), absl::StatusCode::kDataLoss) << text;
  }
}

TEST_F(RecordStoreTest, WhatAKilledDaemonLeftHalfDoneIsRemovedAndNothingElse) {
  const auto touch = [this](const std::string& name) {
    sys::UniqueFd(open((path_ + "/" + name).c_str(), O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
  };
  for (const char* name : {".abc.json.tmp", "abc.lock", "owed.json", "owed.lock", "notes.txt",
                           ".hidden", "no id!.lock"}) {
    touch(name);
  }
  ASSERT_TRUE(RecordStore::Open(path_).ok());
  for (const char* name : {".abc.json.tmp", "abc.lock"}) {
    EXPECT_NE(access((path_ + "/" + name).c_str(), F_OK), 0) << name;
  }
  for (const char* name : {"owed.json", "owed.lock", "notes.txt", ".hidden", "no id!.lock"}) {
    EXPECT_EQ(access((path_ + "/" + name).c_str(), F_OK), 0) << name;
  }
}

TEST_F(RecordStoreTest, RecordsAreListedAndBrokenOnesNamed) {
  ASSERT_TRUE(store_->Write(Example(), sys::Durability::kPower).ok());
  const auto dir = sys::OpenAt(AT_FDCWD, path_ + "/cni", O_RDONLY | O_DIRECTORY);
  ASSERT_TRUE(
      sys::WriteFileAtomic(dir->get(), "bad.json", "{", 0600, sys::Durability::kProcess).ok());
  // A record under another's name would be removed as that one.
  ASSERT_TRUE(sys::WriteFileAtomic(dir->get(), "other.json", EncodeRecord(Example()), 0600,
                                   sys::Durability::kProcess)
                  .ok());
  std::vector<std::string> broken;
  const auto records = store_->List(&broken);
  ASSERT_EQ(records.size(), 1u);
  EXPECT_EQ(records[0].sandbox_id, "abc");
  EXPECT_THAT(broken, testing::UnorderedElementsAre("bad.json", "other.json"));
  EXPECT_TRUE(store_->Remove("abc").ok());
  EXPECT_TRUE(store_->Remove("abc").ok());
  EXPECT_EQ(store_->Read("abc").status().code(), absl::StatusCode::kNotFound);
}

TEST_F(RecordStoreTest, ALockIsHeldUntilItsLastDescriptorIsClosed) {
  auto lock = store_->Lock("abc", absl::InfiniteFuture());
  ASSERT_TRUE(lock.ok()) << lock.status();
  sys::UniqueFd inherited(dup(lock->get()));
  lock->reset();
  EXPECT_EQ(store_->Lock("abc", absl::Now() + absl::Milliseconds(10)).status().code(),
            absl::StatusCode::kDeadlineExceeded);
  EXPECT_TRUE(store_->Lock("other", absl::InfinitePast()).ok());
  std::thread release([&] { inherited.reset(); });
  EXPECT_TRUE(store_->Lock("abc", absl::Now() + absl::Seconds(10)).ok());
  release.join();
}

TEST_F(RecordStoreTest, AWaiterIsNotFooledByALockFileThatIsRemoved) {
  auto lock = store_->Lock("abc", absl::InfiniteFuture());
  absl::StatusOr<sys::UniqueFd> waited;
  std::thread waiter([&] { waited = store_->Lock("abc", absl::Now() + absl::Seconds(10)); });
  ASSERT_TRUE(store_->Remove("abc").ok());
  lock->reset();
  waiter.join();
  ASSERT_TRUE(waited.ok()) << waited.status();
  struct stat held;
  struct stat named;
  ASSERT_EQ(fstat(waited->get(), &held), 0);
  ASSERT_EQ(stat(absl::StrCat(path_, "/cni/abc.lock").c_str(), &named), 0);
  EXPECT_EQ(held.st_ino, named.st_ino);
}

}  // namespace
}  // namespace davit::sandbox::cni

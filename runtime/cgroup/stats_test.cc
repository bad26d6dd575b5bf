#include "runtime/cgroup/stats.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>

#include <map>
#include <string>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "runtime/sys/file.h"

namespace davit::runtime::cgroup {
namespace {

// Hierarchies made of ordinary files, as kernels of either version would show them.
class StatsTest : public testing::Test {
 protected:
  void SetUp() override {
    char pattern[] = "/tmp/davit-stats-XXXXXX";
    ASSERT_NE(mkdtemp(pattern), nullptr);
    root_ = pattern;
  }
  void TearDown() override { EXPECT_TRUE(sys::RemoveTreeAt(AT_FDCWD, root_).ok()); }

  void Add(const std::string& name, std::vector<std::string> controllers, bool is_v2,
           const std::map<std::string, std::string>& files) {
    const std::string mount = absl::StrCat(root_, "/", name);
    ASSERT_TRUE(sys::MakeDirs(mount + "/pod", 0755).ok());
    for (const auto& [file, text] : files) {
      ASSERT_TRUE(Write(absl::StrCat(mount, "/pod/", file), text));
    }
    layout_.hierarchies.push_back({mount, std::move(controllers), is_v2, ""});
  }

  static bool Write(const std::string& path, const std::string& text) {
    auto fd = sys::OpenAt(AT_FDCWD, path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
    return fd.ok() && sys::WriteAll(fd->get(), text, path).ok();
  }

  std::string root_;
  Layout layout_;
};

TEST_F(StatsTest, ReadsV2) {
  Add("all", {"cpu", "hugetlb", "io", "memory", "pids"}, true,
      {{"cpu.stat",
        "usage_usec 10\nuser_usec 6\nsystem_usec 4\nnr_periods 3\nnr_throttled 2\n"
        "throttled_usec 5\n"},
       {"memory.current", "1000\n"},
       {"memory.max", "max\n"},
       {"memory.swap.max", "50\n"},
       {"memory.swap.current", "7\n"},
       {"memory.peak", "2000\n"},
       {"memory.stat",
        "anon 300\nfile 600\nkernel 100\nfile_mapped 20\ninactive_anon 1\nactive_anon 2\n"
        "inactive_file 400\nactive_file 200\npgfault 11\npgmajfault 12\n"},
       {"memory.events", "low 0\nhigh 0\nmax 4\noom 1\noom_kill 1\n"},
       {"pids.current", "5\n"},
       {"pids.max", "32\n"},
       {"io.stat", "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n254:1 \n"},
       {"hugetlb.2MB.current", "4194304\n"},
       {"hugetlb.2MB.rsvd.current", "1\n"},
       {"hugetlb.2MB.events", "max 9\n"},
       {"memory.pressure",
        "some avg10=1.50 avg60=0.00 avg300=0.25 total=77\n"
        "full avg10=0.00 avg60=2.00 avg300=0.00 total=8\n"}});
  const auto stats = ReadStats(layout_, "/pod");
  ASSERT_TRUE(stats.ok()) << stats.status();
  EXPECT_EQ(stats->cpu->usage_ns, 10000u);
  EXPECT_EQ(stats->cpu->user_ns, 6000u);
  EXPECT_EQ(stats->cpu->throttled_ns, 5000u);
  EXPECT_EQ(stats->memory->working_set, 600u);
  EXPECT_EQ(stats->memory->rss, 300u);
  EXPECT_EQ(stats->memory->cache, 600u);
  EXPECT_EQ(stats->memory->limit, std::nullopt);
  EXPECT_EQ(stats->memory->swap_limit, 50u);
  EXPECT_EQ(stats->memory->swap, 7u);
  EXPECT_EQ(stats->memory->max_usage, 2000u);
  EXPECT_EQ(stats->memory->major_page_faults, 12u);
  EXPECT_EQ(stats->memory->limit_hits, 4u);
  EXPECT_EQ(stats->memory->oom_kills, 1u);
  EXPECT_EQ(stats->pids->current, 5u);
  EXPECT_EQ(stats->pids->limit, 32u);
  ASSERT_EQ(stats->io.size(), 2u);
  EXPECT_EQ(stats->io[0].write_operations, 4u);
  ASSERT_EQ(stats->hugetlb.size(), 1u);
  EXPECT_EQ(stats->hugetlb[0].page_size, "2MB");
  EXPECT_EQ(stats->hugetlb[0].limit_hits, 9u);
  EXPECT_DOUBLE_EQ(stats->memory_pressure->some.avg10, 1.5);
  EXPECT_EQ(stats->memory_pressure->some.total_us, 77u);
  EXPECT_DOUBLE_EQ(stats->memory_pressure->full.avg60, 2.0);
  EXPECT_FALSE(stats->cpu_pressure.has_value());
}

TEST_F(StatsTest, ReadsV1) {
  Add("cpu,cpuacct", {"cpu", "cpuacct"}, false,
      {{"cpu.stat", "nr_periods 3\nnr_throttled 2\nthrottled_time 5\n"},
       {"cpuacct.usage", "100\n"},
       {"cpuacct.usage_user", "60\n"},
       {"cpuacct.usage_sys", "40\n"}});
  Add("memory", {"memory"}, false,
      {{"memory.usage_in_bytes", "100\n"},
       {"memory.limit_in_bytes", "500\n"},
       {"memory.memsw.limit_in_bytes", "700\n"},
       {"memory.failcnt", "3\n"},
       {"memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n"},
       {"memory.stat", "rss 1\ntotal_rss 30\ntotal_inactive_file 200\ntotal_pgfault 4\n"}});
  Add("blkio", {"blkio"}, false,
      {{"blkio.throttle.io_service_bytes_recursive",
        "8:0 Read 10\n8:0 Write 20\n8:0 Total 30\nTotal 30\n"},
       {"blkio.throttle.io_serviced_recursive", "8:0 Read 1\n8:0 Write 2\nTotal 3\n"}});
  const auto stats = ReadStats(layout_, "/pod");
  ASSERT_TRUE(stats.ok()) << stats.status();
  EXPECT_EQ(stats->cpu->usage_ns, 100u);
  EXPECT_EQ(stats->cpu->system_ns, 40u);
  EXPECT_EQ(stats->cpu->throttled_ns, 5u);
  EXPECT_EQ(stats->memory->rss, 30u);
  // More inactive file pages than usage (the two are not read at one moment) is 0, not a huge
  // number.
  EXPECT_EQ(stats->memory->working_set, 0u);
  EXPECT_EQ(stats->memory->limit, 500u);
  EXPECT_EQ(stats->memory->swap_limit, 200u);
  EXPECT_EQ(stats->memory->oom_kills, 2u);
  EXPECT_EQ(stats->memory->limit_hits, 3u);
  ASSERT_EQ(stats->io.size(), 1u);
  EXPECT_EQ(stats->io[0].write_bytes, 20u);
  EXPECT_EQ(stats->io[0].read_operations, 1u);
  const auto kills = ReadOomKills(layout_, "/pod");
  ASSERT_TRUE(kills.ok());
  EXPECT_EQ(*kills, 2u);
}

TEST_F(StatsTest, AGroupThatIsGoneIsNotFound) {
  Add("all", {"cpu", "memory", "pids"}, true, {});
  EXPECT_EQ(ReadStats(layout_, "/other").status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(ReadOomKills(layout_, "/other").status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(ReadStats(layout_, "/../x").status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace davit::runtime::cgroup

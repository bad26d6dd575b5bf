#include "cri/stats.h"

#include <stdlib.h>
#include <unistd.h>

#include "cri/directory_usage.h"
#include "gtest/gtest.h"

namespace davit::cri {
namespace {

namespace v1 = ::runtime::v1;

TEST(StatsTest, ARateNeedsTwoSamplesThatAreFarEnoughApart) {
  CpuRates rates;
  const int64_t second = 1000000000;
  EXPECT_EQ(rates.Add("c", second, 100), std::nullopt);
  EXPECT_EQ(rates.Add("c", second + 1000, 200), std::nullopt);
  EXPECT_EQ(rates.Add("c", 3 * second, 100 + second), 500000000u);
  EXPECT_EQ(rates.Add("c", 3 * second + 5, 100 + 2 * second), 500000000u);
  // A group that was made again counts from nothing.
  EXPECT_EQ(rates.Add("c", 4 * second, 7), 0u);
  rates.Keep({});
  EXPECT_EQ(rates.Add("c", 5 * second, 7), std::nullopt);
}

TEST(StatsTest, CgroupCountsArrive) {
  runtime::cgroup::Stats stats;
  stats.timestamp_ns = 5;
  stats.cpu.emplace().usage_ns = 1000;
  auto& memory = stats.memory.emplace();
  memory.usage = 300;
  memory.working_set = 200;
  memory.rss = 100;
  memory.limit = 1000;
  memory.swap = 7;
  stats.cpu_pressure.emplace().some.total_us = 3;
  v1::CpuUsage cpu;
  ToCpuUsage(stats, 42, &cpu);
  EXPECT_EQ(cpu.timestamp(), 5);
  EXPECT_EQ(cpu.usage_core_nano_seconds().value(), 1000u);
  EXPECT_EQ(cpu.usage_nano_cores().value(), 42u);
  EXPECT_EQ(cpu.psi().some().total(), 3000u);
  v1::MemoryUsage usage;
  ToMemoryUsage(stats, &usage);
  EXPECT_EQ(usage.working_set_bytes().value(), 200u);
  EXPECT_EQ(usage.available_bytes().value(), 800u);
  EXPECT_EQ(usage.usage_bytes().value(), 300u);
  EXPECT_EQ(usage.rss_bytes().value(), 100u);
  EXPECT_FALSE(usage.has_psi());
  v1::SwapUsage swap;
  ToSwapUsage(stats, &swap);
  EXPECT_EQ(swap.swap_usage_bytes().value(), 7u);
  EXPECT_FALSE(swap.has_swap_available_bytes());
}

TEST(StatsTest, TheNetworkIsWithoutTheLoopbackAndEth0IsTheDefault) {
  constexpr char kNetDev[] =
      "Inter-|   Receive                                                |  Transmit\n"
      " face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs "
      "drop "
      "fifo colls carrier compressed\n"
      "    lo:     100       1    0    0    0     0          0         0      100       1    0    "
      "0    "
      "0     0       0          0\n"
      "  net1:      11       1    2    0    0     0          0         0       33       1    4    "
      "0    "
      "0     0       0          0\n"
      "  eth0:1234567890    1    5    0    0     0          0         0       77       1    6    0 "
      "   "
      "0     0       0          0\n"
      "broken: 1 2\n";
  v1::NetworkUsage network;
  ToNetworkUsage(kNetDev, 9, &network);
  EXPECT_EQ(network.timestamp(), 9);
  EXPECT_EQ(network.default_interface().name(), "eth0");
  EXPECT_EQ(network.default_interface().rx_bytes().value(), 1234567890u);
  EXPECT_EQ(network.default_interface().rx_errors().value(), 5u);
  EXPECT_EQ(network.default_interface().tx_bytes().value(), 77u);
  EXPECT_EQ(network.default_interface().tx_errors().value(), 6u);
  ASSERT_EQ(network.interfaces_size(), 1);
  EXPECT_EQ(network.interfaces(0).name(), "net1");
}

TEST(StatsTest, ADirectoryCountsBlocksAndEachInodeOnce) {
  std::string dir = testing::TempDir() + "/usage.XXXXXX";
  ASSERT_NE(::mkdtemp(dir.data()), nullptr);
  FILE* file = ::fopen((dir + "/file").c_str(), "w");
  ASSERT_NE(file, nullptr);
  const std::string text(100000, 'x');
  ASSERT_EQ(::fwrite(text.data(), 1, text.size(), file), text.size());
  ::fsync(::fileno(file));
  ::fclose(file);
  ASSERT_EQ(::link((dir + "/file").c_str(), (dir + "/again").c_str()), 0);
  ASSERT_EQ(::symlink("/usr", (dir + "/link").c_str()), 0);
  const DirectoryUsage usage = MeasureDirectory(dir);
  EXPECT_EQ(usage.inodes, 3u);
  EXPECT_GE(usage.bytes, 100000u);
  EXPECT_LT(usage.bytes, 200000u);
  DirectoryUsageCache cache(absl::Hours(1));
  EXPECT_EQ(cache.Get(dir).inodes, 3u);
  ::unlink((dir + "/again").c_str());
  ::unlink((dir + "/link").c_str());
  EXPECT_EQ(cache.Get(dir).inodes, 3u) << "fresh enough";
  cache.Keep({});
  EXPECT_EQ(cache.Get(dir).inodes, 2u);
  ::unlink((dir + "/file").c_str());
  ::rmdir(dir.c_str());
  EXPECT_EQ(MeasureDirectory(dir).inodes, 0u);
}

}  // namespace
}  // namespace davit::cri

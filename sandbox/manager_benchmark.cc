// What the manager's calls take, host network, one after the other, without gRPC: percentiles in
// microseconds over many rounds. Needs root. Arguments: rounds (200), pause between the calls of a
// round in milliseconds (0; a busy loop hides what an idle node pays).
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <algorithm>
#include <map>
#include <string>
#include <vector>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "runtime/sys/file.h"
#include "sandbox/testing_node.h"

namespace davit::sandbox {
namespace {

class Clock {
 public:
  explicit Clock(absl::Duration pause) : pause_(pause) {}

  template <typename Call>
  void Time(const std::string& name, Call call) {
    if (pause_ > absl::ZeroDuration()) absl::SleepFor(pause_);
    const absl::Time begin = absl::Now();
    const absl::Status status = call();
    const double us = absl::ToDoubleMicroseconds(absl::Now() - begin);
    if (!status.ok()) {
      fprintf(stderr, "%s: %s\n", name.c_str(), status.ToString().c_str());
      exit(1);
    }
    if (samples_.count(name) == 0) order_.push_back(name);
    samples_[name].push_back(us);
  }
  double Last(const std::string& name) const { return samples_.at(name).back(); }
  void Add(const std::string& name, double us) {
    if (samples_.count(name) == 0) order_.push_back(name);
    samples_[name].push_back(us);
  }

  void Print() {
    for (const std::string& name : order_) {
      std::vector<double>& values = samples_[name];
      std::sort(values.begin(), values.end());
      printf("%-16s p50 %7.0f  p90 %7.0f  p99 %7.0f us\n", name.c_str(), values[values.size() / 2],
             values[values.size() * 9 / 10], values[values.size() * 99 / 100]);
    }
  }

 private:
  const absl::Duration pause_;
  std::map<std::string, std::vector<double>> samples_;
  std::vector<std::string> order_;
};

int Main(int rounds, absl::Duration pause) {
  testing::Node node("sandbox/supervisor/davit-pod", "sandbox/supervisor/davit-init");
  // As on a node: /run is a tmpfs, the writable layers are on a disk.
  std::string state = absl::StrCat("/dev/shm/davit-benchmark.", getpid());
  node.options().state = state;
  auto remove = absl::MakeCleanup([&] { sys::RemoveTreeAt(AT_FDCWD, state).IgnoreError(); });
  Clock clock(pause);
  clock.Time("Open", [&] { return node.Restart(); });
  for (int i = 0; i < rounds; ++i) {
    std::string pod, container;
    clock.Time("RunPod", [&] {
      auto id = node->RunPod(node.HostPod(absl::StrCat("bench", i)));
      pod = id.value_or("");
      return id.status();
    });
    clock.Time("CreateContainer", [&] {
      auto id = node->CreateContainer(node.Container(pod, "c", {"/bin/sleep", "1000"}));
      container = id.value_or("");
      return id.status();
    });
    clock.Time("StartContainer", [&] { return node->StartContainer(container); });
    clock.Add("the three",
              clock.Last("RunPod") + clock.Last("CreateContainer") + clock.Last("StartContainer"));
    node.Exec(container, {"/bin/true"}).status().IgnoreError();
    clock.Time("ExecSync true", [&] { return node.Exec(container, {"/bin/true"}).status(); });
    clock.Time("StopContainer",
               [&] { return node.StopContainer(container, absl::ZeroDuration()); });
    clock.Time("RemoveContainer", [&] { return node.RemoveContainer(container); });
    clock.Time("StopPod", [&] { return node.StopPod(pod); });
    clock.Time("RemovePod", [&] { return node.RemovePod(pod); });
    clock.Add("gone again", clock.Last("StopContainer") + clock.Last("RemoveContainer") +
                                clock.Last("StopPod") + clock.Last("RemovePod"));
  }
  node.StopManager();
  clock.Print();
  return 0;
}

}  // namespace
}  // namespace davit::sandbox

int main(int argc, char** argv) {
  const int rounds = argc > 1 ? atoi(argv[1]) : 200;
  const int pause_ms = argc > 2 ? atoi(argv[2]) : 0;
  return davit::sandbox::Main(std::max(rounds, 1), absl::Milliseconds(pause_ms));
}

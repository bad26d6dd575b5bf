// How long a container takes from plan to payload, and where the time goes. Not a test:
//   bazel run -c opt //runtime:container_benchmark [runs] [gap_us]
// The pod's namespaces are made once, as a pod has them; each run makes, starts, enters, kills and
// removes one container with a fresh overlay, every cgroup and a seccomp program.

#include <sched.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <map>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "runtime/stage/namespaces.h"
#include "runtime/testing/bundle.h"

namespace davit::runtime {
namespace {

using spec::NamespaceType;

double Percentile(std::vector<double> values, double part) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  return values[static_cast<size_t>(part * static_cast<double>(values.size() - 1))];
}

int Main(int runs, int gap) {
  testing::Bundle bundle;
  // The pod: this process is a member of its namespaces, as a supervisor is.
  if (unshare(CLONE_NEWIPC | CLONE_NEWUTS) != 0) return 1;
  auto pod = stage::CreatePodNamespaces({});
  if (!pod.ok()) return 1;
  spec::Spec spec = bundle.DefaultSpec();
  spec.hostname.clear();
  spec.process->args = bundle.Probe({{"pause"}});
  std::map<std::string, std::vector<double>> steps;
  std::map<std::string, std::vector<double>> operations;
  for (int i = 0; i < runs; ++i) {
    Container::Options options = bundle.Options(spec);
    options.inputs.inherited = {NamespaceType::kNetwork, NamespaceType::kIpc, NamespaceType::kUts};
    options.inputs.join_pod_mount_namespace = true;
    options.inputs.pod_shm = true;
    options.external[plan::kPodMountNamespace] = pod->mount.get();
    std::vector<std::string>& layers = options.inputs.overlay->lower_dirs;
    for (int layer = 1; layer < 4; ++layer) {
      const std::string path = absl::StrCat(bundle.dir(), "/layer", layer);
      std::filesystem::create_directory(path);
      layers.push_back(path);
    }
    usleep(static_cast<useconds_t>(gap));
    absl::Time last = absl::Now();
    const auto lap = [&](const char* step) {
      const absl::Time now = absl::Now();
      steps[step].push_back(absl::ToDoubleMicroseconds(now - last));
      last = now;
    };
    auto container = Container::Create(options);
    if (!container.ok()) {
      fprintf(stderr, "%s\n", container.status().ToString().c_str());
      return 1;
    }
    lap("1 create");
    if (!(*container)->Start().ok()) return 1;
    lap("2 start");
    usleep(static_cast<useconds_t>(gap));
    last = absl::Now();
    spec::Process process = *spec.process;
    process.args = bundle.Probe({{"exit", "0"}});
    auto session = (*container)->Exec(process, {});
    if (!session.ok() || !(*session)->Wait(absl::InfiniteFuture()).ok()) return 1;
    lap("3 exec");
    session->reset();
    last = absl::Now();
    if (!(*container)->Kill(SIGKILL).ok()) return 1;
    if (!(*container)->Wait(absl::InfiniteFuture()).ok()) return 1;
    lap("4 kill");
    if (!(*container)->Delete(false).ok()) return 1;
    lap("5 delete");
    std::map<std::string, double> sums;
    for (const stage::Timing& timing : (*container)->Timings()) {
      sums[timing.operation] += timing.nanoseconds / 1000.0;
    }
    for (const auto& [name, sum] : sums) operations[name].push_back(sum);
  }
  for (const auto& [name, values] : steps) {
    printf("%-28s p50 %8.0f us  p90 %8.0f us\n", name.c_str(), Percentile(values, 0.5),
           Percentile(values, 0.9));
  }
  std::vector<std::pair<double, std::string>> sorted;
  for (const auto& [name, values] : operations) sorted.emplace_back(Percentile(values, 0.5), name);
  std::sort(sorted.rbegin(), sorted.rend());
  for (const auto& [time, name] : sorted) printf("  %-36s %8.1f us\n", name.c_str(), time);
  return 0;
}

}  // namespace
}  // namespace davit::runtime

int main(int argc, char** argv) {
  return davit::runtime::Main(argc > 1 ? atoi(argv[1]) : 200, argc > 2 ? atoi(argv[2]) : 0);
}

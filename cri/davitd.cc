#include <malloc.h>
#include <pthread.h>
#include <signal.h>
#include <systemd/sd-daemon.h>
#include <time.h>
#include <unistd.h>

#include <cstdio>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "cri/config.h"
#include "cri/daemon.h"
#include "cri/idle_pages.h"
#include "cri/log.h"
#include "cri/options.h"
#include "runtime/sys/version.h"

namespace davit::cri {
namespace {

// Threads come and go here; an arena for each of them would keep what they once needed.
void LimitMemory() {
  mallopt(M_ARENA_MAX, 2);
  mallopt(M_TRIM_THRESHOLD, 128 << 10);
  mallopt(M_MMAP_THRESHOLD, 128 << 10);
}

// Blocked before any thread exists, so that all of them inherit it, and read by main alone.
sigset_t BlockSignals() {
  sigset_t set;
  sigemptyset(&set);
  for (const int signal : {SIGTERM, SIGINT, SIGHUP}) sigaddset(&set, signal);
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  ::signal(SIGPIPE, SIG_IGN);
  return set;
}

int Fail(const absl::Status& status) {
  std::fprintf(stderr, "davitd: %s\n", std::string(status.message()).c_str());
  return 1;
}

void Reload(const Options& options, Daemon* daemon) {
  timespec now = {};
  clock_gettime(CLOCK_MONOTONIC, &now);
  sd_notify(0, absl::StrCat("RELOADING=1\nMONOTONIC_USEC=",
                            int64_t{now.tv_sec} * 1000000 + now.tv_nsec / 1000)
                   .c_str());
  const absl::StatusOr<Config> config = EffectiveConfig(options);
  if (config.ok()) {
    daemon->Reload(*config);
  } else {
    Log(LogLevel::kError, "the configuration is wrong, the old one stays",
        {{"error", absl::string_view(config.status().message())}});
  }
  sd_notify(0, "READY=1");
}

int Serve(const Options& options, const Config& config) {
  const sigset_t signals = BlockSignals();
  LimitMemory();
  InitLog(config.log_level);
  Log(LogLevel::kInfo, "davitd starts",
      {{"version", sys::Version()}, {"root", config.root}, {"state", config.state}});
  absl::StatusOr<std::unique_ptr<Daemon>> daemon = Daemon::Start(config);
  if (!daemon.ok()) {
    Log(LogLevel::kError, "davitd cannot start",
        {{"error", absl::string_view(daemon.status().message())}});
    return 1;
  }
  sd_notify(0, "READY=1");
  ReleaseIdlePages();
  for (;;) {
    int signal = 0;
    if (sigwait(&signals, &signal) != 0) continue;
    if (signal != SIGHUP) break;
    Reload(options, daemon->get());
  }
  sd_notify(0, "STOPPING=1");
  Log(LogLevel::kInfo, "davitd stops; pods go on");
  if (!(*daemon)->Stop()) ::_exit(0);
  return 0;
}

int Main(int argc, char** argv) {
  const absl::StatusOr<Options> options = ParseOptions(argc, argv);
  if (!options.ok()) return Fail(options.status());
  if (!options->help.empty()) {
    std::fputs(options->help.c_str(), stdout);
    return 0;
  }
  if (options->list_steps) {
    for (const sys::OperationSteps& operation : Daemon::Steps()) {
      for (const std::string& step : operation.steps) {
        std::printf("%s\t%s\n", operation.operation.c_str(), step.c_str());
      }
    }
    return 0;
  }
  if (options->version) {
    std::printf("davitd %s\n", sys::Version());
    return 0;
  }
  const absl::StatusOr<Config> config = EffectiveConfig(*options);
  if (!config.ok()) return Fail(config.status());
  if (options->check_config) {
    std::printf("The configuration is right.\n");
    return 0;
  }
  return Serve(*options, *config);
}

}  // namespace
}  // namespace davit::cri

int main(int argc, char** argv) { return davit::cri::Main(argc, argv); }

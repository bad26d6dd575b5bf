#ifndef DAVIT_CRI_DAEMON_H_
#define DAVIT_CRI_DAEMON_H_

#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "cri/config.h"
#include "runtime/sys/steps.h"

namespace davit::cri {

// All of davitd between its configuration and its signals. Not thread-safe: used by main alone.
class Daemon {
 public:
  virtual ~Daemon() = default;

  // Starts everything in order; when it returns, the socket answers and every pod is known. What
  // was started is ended again on failure. FailedPrecondition with the holder's pid if another
  // davitd has the directories.
  static absl::StatusOr<std::unique_ptr<Daemon>> Start(const Config& config);

  // The steps of every operation by their names, for fault injection.
  static std::vector<sys::OperationSteps> Steps();

  // Takes over what can change while it runs: registries and the log level.
  virtual void Reload(const Config& config) = 0;

  // Stops serving. Pods go on, and are found again at the next start. Calls that still work after
  // some seconds are left behind, as a crash would; the caller must then end the process.
  // False if there are such.
  virtual bool Stop() = 0;
};

}  // namespace davit::cri

#endif  // DAVIT_CRI_DAEMON_H_

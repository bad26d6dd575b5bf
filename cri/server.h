#ifndef DAVIT_CRI_SERVER_H_
#define DAVIT_CRI_SERVER_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "cri/call.h"
#include "cri/worker_pool.h"

namespace davit::cri {

struct ServerOptions {
  std::string socket_path;
  int max_message_bytes = 64 << 20;  // both ways
};

// The gRPC server on a unix socket (mode 0660, owned by the daemon's user and group). Dispatches by
// a table: each call gets an id, is run where its row says, and is logged once when it ends;
// methods that are not in the table answer UNIMPLEMENTED and say their name. Thread-safe.
class Server {
 public:
  virtual ~Server() = default;

  // Listens and serves. A socket file that is there already is replaced in one step, so the caller
  // must hold the state lock: then it is a dead daemon's. `workers` must outlive the server.
  static absl::StatusOr<std::unique_ptr<Server>> Start(ServerOptions options,
                                                       std::vector<Method> methods,
                                                       WorkerPool* workers);

  // Takes no new calls, gives those in flight `grace` to end, cancels the rest, and returns when
  // none is left. Removes the socket file.
  virtual void Shutdown(absl::Duration grace) = 0;
};

}  // namespace davit::cri

#endif  // DAVIT_CRI_SERVER_H_

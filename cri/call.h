#ifndef DAVIT_CRI_CALL_H_
#define DAVIT_CRI_CALL_H_

#include <google/protobuf/message.h>

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

// What the services know of the transport: a call that can be answered, and a table row for each
// method. gRPC itself is behind server.cc, so that no other file pays for its headers.
namespace davit::cri {

// One RPC in flight. Thread-safe. Exactly one of Reply and Finish is to be called, from any thread;
// after a client has gone away both do nothing.
class Call {
 public:
  virtual ~Call() = default;

  // Short and unique in this daemon's life: `request=` in the log.
  virtual absl::string_view id() const = 0;
  virtual absl::Time deadline() const = 0;

  // Calls `callback` once, from a thread of the transport, if the client goes away or its deadline
  // passes before the answer; at once if that has happened already. It must not block.
  virtual void NotifyOnCancel(std::function<void()> callback) = 0;

  // Sends one message of a server stream.
  virtual void Send(const google::protobuf::Message& message) = 0;
  // The single answer of a unary call, with status OK.
  virtual void Reply(const google::protobuf::Message& message) = 0;
  // Ends a stream (OK), or fails the call.
  virtual void Finish(absl::Status status) = 0;
};
using CallPtr = std::shared_ptr<Call>;

// One row of the dispatch table.
struct Method {
  enum class Runs {
    kInline,    // from memory, in microseconds: on the transport's own thread
    kOnWorker,  // may block for a while
  };
  std::string name;  // "/runtime.v1.RuntimeService/Version"
  Runs runs = Runs::kOnWorker;
  bool changes_state = false;  // logged at level info instead of debug
  std::function<std::unique_ptr<google::protobuf::Message>()> make_request;
  std::function<void(const CallPtr&, const google::protobuf::Message&)> handle;
};

template <typename Response>
using Done = std::function<void(absl::StatusOr<Response>)>;

// A method that returns its answer.
template <typename Request, typename Response>
Method Unary(std::string name, Method::Runs runs, bool changes_state,
             std::function<absl::Status(const Request&, Response*)> function) {
  Method method{std::move(name), runs, changes_state, [] { return std::make_unique<Request>(); },
                nullptr};
  method.handle = [function = std::move(function)](const CallPtr& call,
                                                   const google::protobuf::Message& request) {
    Response response;
    absl::Status status = function(static_cast<const Request&>(request), &response);
    if (status.ok()) {
      call->Reply(response);
    } else {
      call->Finish(std::move(status));
    }
  };
  return method;
}

// A method that answers later and holds no thread meanwhile. `function` must call its Done once.
template <typename Request, typename Response>
Method UnaryLater(std::string name, bool changes_state,
                  std::function<void(const CallPtr&, const Request&, Done<Response>)> function) {
  Method method{std::move(name), Method::Runs::kOnWorker, changes_state,
                [] { return std::make_unique<Request>(); }, nullptr};
  method.handle = [function = std::move(function)](const CallPtr& call,
                                                   const google::protobuf::Message& request) {
    function(call, static_cast<const Request&>(request), [call](absl::StatusOr<Response> result) {
      if (result.ok()) {
        call->Reply(*result);
      } else {
        call->Finish(result.status());
      }
    });
  };
  return method;
}

// A method that streams a list which is at hand. `function` gives the messages in order.
template <typename Request, typename Response>
Method ListStream(std::string name, Method::Runs runs,
                  std::function<absl::StatusOr<std::vector<Response>>(const Request&)> function) {
  Method method{std::move(name), runs, false, [] { return std::make_unique<Request>(); }, nullptr};
  method.handle = [function = std::move(function)](const CallPtr& call,
                                                   const google::protobuf::Message& request) {
    absl::StatusOr<std::vector<Response>> messages = function(static_cast<const Request&>(request));
    if (messages.ok()) {
      for (const Response& message : *messages) call->Send(message);
    }
    call->Finish(messages.status());
  };
  return method;
}

}  // namespace davit::cri

#endif  // DAVIT_CRI_CALL_H_

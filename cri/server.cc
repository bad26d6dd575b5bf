#include "cri/server.h"

#include <grpc/grpc.h>
#include <grpcpp/generic/async_generic_service.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/impl/codegen/proto_utils.h>
#include <grpcpp/support/proto_buffer_reader.h>
#include <grpcpp/support/proto_buffer_writer.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdio>
#include <deque>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"
#include "cri/grpc_status.h"
#include "cri/log.h"
#include "cri/request_summary.h"
#include "runtime/sys/errno.h"
#include "runtime/sys/mutex.h"

namespace davit::cri {
namespace {

grpc::Status ToGrpc(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  const WireStatus wire = ToWire(status);
  return grpc::Status(static_cast<grpc::StatusCode>(wire.code), wire.message);
}

grpc::ByteBuffer Serialize(const google::protobuf::Message& message) {
  grpc::ByteBuffer buffer;
  bool own = false;
  // Bytes fields hold anything and string fields were valid when they came: this cannot fail, save
  // beyond 2 GiB.
  grpc::GenericSerialize<grpc::ProtoBufferWriter, google::protobuf::Message>(message, &buffer,
                                                                             &own);
  return buffer;
}

// One call: the transport's reactor and the services' Call. It keeps itself alive until gRPC is
// done with it; whoever answers late holds a reference of his own and finds it finished.
class Reactor final : public grpc::ServerGenericBidiReactor,
                      public Call,
                      public std::enable_shared_from_this<Reactor> {
 public:
  // `method` keeps the table alive: a handler may still run when the server is gone.
  Reactor(std::shared_ptr<const Method> method, uint64_t number, absl::Time deadline,
          WorkerPool* workers)
      : method_(std::move(method)),
        id_(absl::StrCat(number)),
        deadline_(deadline),
        workers_(workers),
        begun_(absl::Now()) {}

  void Begin() {
    self_ = shared_from_this();
    StartRead(&buffer_);
  }

  absl::string_view id() const override { return id_; }
  absl::Time deadline() const override { return deadline_; }

  void NotifyOnCancel(std::function<void()> callback) override {
    bool now = false;
    {
      sys::MutexLock lock(&mutex_);
      now = cancelled_;
      if (!now && !ending_) on_cancel_ = callback;
    }
    if (now) callback();
  }

  void Send(const google::protobuf::Message& message) override {
    grpc::ByteBuffer buffer = Serialize(message);
    {
      sys::MutexLock lock(&mutex_);
      if (ending_) return;
      writes_.push_back(std::move(buffer));
      if (writing_) return;
      writing_ = true;
    }
    StartWrite(&writes_.front());
  }

  void Reply(const google::protobuf::Message& message) override {
    grpc::ByteBuffer buffer = Serialize(message);
    {
      sys::MutexLock lock(&mutex_);
      if (ending_) return;
      End(absl::OkStatus());
      writes_.push_back(std::move(buffer));
      writing_ = true;
    }
    StartWriteAndFinish(&writes_.front(), grpc::WriteOptions(), grpc::Status::OK);
  }

  void Finish(absl::Status status) override {
    {
      sys::MutexLock lock(&mutex_);
      if (ending_) return;
      End(status);
      if (writing_) return;  // OnWriteDone finishes
    }
    ServerBidiReactor::Finish(ToGrpc(status));
  }

 private:
  void OnReadDone(bool ok) override {
    if (!ok) return Finish(absl::CancelledError("the client sent no request"));
    request_ = method_->make_request();
    grpc::ProtoBufferReader reader(&buffer_);
    if (!reader.status().ok() || !request_->ParseFromZeroCopyStream(&reader)) {
      return Finish(absl::InvalidArgumentError(absl::StrCat(
          method_->name, ": the request is no valid ", request_->GetTypeName(), " message")));
    }
    buffer_.Clear();
    if (LogEnabled(LogLevel::kDebug)) {
      Log(LogLevel::kDebug, "call",
          {{"request", id_}, {"method", ShortName()}, {"object", RequestSummary(*request_)}});
    }
    if (method_->runs == Method::Runs::kInline) return Handle();
    if (!workers_->Run([self = shared_from_this()] { self->Handle(); })) {
      Finish(absl::ResourceExhaustedError(
          absl::StrCat(ShortName(), ": too many calls are in flight, try again later")));
    }
  }

  void Handle() { method_->handle(shared_from_this(), *request_); }

  void OnWriteDone(bool ok) override {
    bool more = false;
    {
      sys::MutexLock lock(&mutex_);
      writes_.pop_front();
      if (!ok) writes_.clear();
      more = !writes_.empty();
      writing_ = more;
      if (!more && !ending_) return;
    }
    if (more) {
      StartWrite(&writes_.front());
    } else {
      ServerBidiReactor::Finish(ToGrpc(status_));
    }
  }

  // The client is gone. The call is answered at once, so that a server that shuts down waits for
  // nobody; what the handler says later goes nowhere.
  void OnCancel() override {
    std::function<void()> callback;
    {
      sys::MutexLock lock(&mutex_);
      cancelled_ = true;
      callback = std::move(on_cancel_);
      on_cancel_ = nullptr;
    }
    if (callback) callback();
    Finish(absl::Now() >= deadline_
               ? absl::DeadlineExceededError("the call's deadline passed")
               : absl::CancelledError("the client cancelled the call or is gone"));
  }

  void OnDone() override {
    LogEnd();
    self_.reset();  // may destroy *this
  }

  void End(absl::Status status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    ending_ = true;
    status_ = std::move(status);
    on_cancel_ = nullptr;
    ended_ = absl::Now();
  }

  absl::string_view ShortName() const {
    const absl::string_view name = method_->name;
    return name.substr(name.rfind('/') + 1);
  }

  // The access log, and the one place where an error is logged.
  void LogEnd() {
    absl::Status status;
    absl::Time ended;
    {
      sys::MutexLock lock(&mutex_);
      status = status_;
      ended = ended_;
    }
    LogLevel level = method_->changes_state ? LogLevel::kInfo : LogLevel::kDebug;
    if (!status.ok()) level = LogLevel::kWarn;
    // Clients ask for what may be gone as a matter of course.
    if (absl::IsNotFound(status) || absl::IsCancelled(status)) level = LogLevel::kInfo;
    if (absl::IsInternal(status)) level = LogLevel::kError;
    if (!LogEnabled(level)) return;
    const std::string object = request_ == nullptr ? "" : RequestSummary(*request_);
    const std::string took = absl::StrFormat("%.3f", absl::ToDoubleMilliseconds(ended - begun_));
    const std::string code = absl::StatusCodeToString(status.code());
    if (status.ok()) {
      Log(level, "answered",
          {{"request", id_}, {"method", ShortName()}, {"object", object}, {"ms", took}});
    } else {
      Log(level, "failed",
          {{"request", id_},
           {"method", ShortName()},
           {"object", object},
           {"ms", took},
           {"code", code},
           {"error", absl::string_view(status.message())}});
    }
  }

  const std::shared_ptr<const Method> method_;
  const std::string id_;
  const absl::Time deadline_;
  WorkerPool* const workers_;
  const absl::Time begun_;
  std::shared_ptr<Reactor> self_;
  grpc::ByteBuffer buffer_;
  std::unique_ptr<google::protobuf::Message> request_;
  // Guards what follows. `writes_`'s front is being sent while `writing_`; a deque does not move
  // its elements when one is added.
  mutable sys::Mutex mutex_;
  std::deque<grpc::ByteBuffer> writes_;
  bool writing_ = false;
  bool ending_ = false;
  bool cancelled_ = false;
  std::function<void()> on_cancel_;
  absl::Status status_;
  absl::Time ended_ = absl::InfinitePast();
};

// Answers a method that the table lacks.
class UnimplementedReactor final : public grpc::ServerGenericBidiReactor {
 public:
  explicit UnimplementedReactor(const std::string& method) {
    Log(LogLevel::kDebug, "unimplemented", {{"method", method}});
    Finish(grpc::Status(grpc::StatusCode::UNIMPLEMENTED,
                        absl::StrCat("davit does not implement ", method)));
  }

 private:
  void OnDone() override { delete this; }
};

class Dispatcher final : public grpc::CallbackGenericService {
 public:
  Dispatcher(std::vector<Method> methods, WorkerPool* workers) : workers_(workers) {
    for (Method& method : methods) {
      std::string name = method.name;
      methods_.emplace(std::move(name), std::make_shared<const Method>(std::move(method)));
    }
  }

  grpc::ServerGenericBidiReactor* CreateReactor(
      grpc::GenericCallbackServerContext* context) override {
    const auto found = methods_.find(context->method());
    if (found == methods_.end()) {
      return new UnimplementedReactor(std::string(absl::StripPrefix(context->method(), "/")));
    }
    const absl::Time deadline = context->deadline() == std::chrono::system_clock::time_point::max()
                                    ? absl::InfiniteFuture()
                                    : absl::FromChrono(context->deadline());
    auto reactor = std::make_shared<Reactor>(found->second, next_.fetch_add(1), deadline, workers_);
    reactor->Begin();
    return reactor.get();
  }

 private:
  WorkerPool* const workers_;
  std::map<std::string, std::shared_ptr<const Method>> methods_;
  std::atomic<uint64_t> next_ = 1;
};

// Keeps gRPC's library state for the process's life. Its last shutdown would wait for a poller
// that a large write started, for up to ten seconds, and a daemon that stops has no use for it.
void KeepLibrary() {
  static const bool kept = [] {
    grpc_init();
    return true;
  }();
  static_cast<void>(kept);
}

class GrpcServer final : public Server {
 public:
  GrpcServer(ServerOptions options, std::vector<Method> methods, WorkerPool* workers)
      : options_(std::move(options)), dispatcher_(std::move(methods), workers) {}
  ~GrpcServer() override { Shutdown(absl::ZeroDuration()); }

  absl::Status Listen() {
    // gRPC binds under a temporary name; the socket gets its mode there and replaces the old one by
    // a rename: nobody ever meets one with the wrong mode, or none.
    const std::string temporary = absl::StrCat(options_.socket_path, ".new");
    if (temporary.size() >= sizeof(sockaddr_un::sun_path)) {
      return absl::InvalidArgumentError(absl::StrCat("socket path ", options_.socket_path,
                                                     " is longer than ",
                                                     sizeof(sockaddr_un::sun_path) - 5, " bytes"));
    }
    // The rename would replace whatever is there.
    for (const std::string& path : {temporary, options_.socket_path}) {
      struct stat st;
      if (::lstat(path.c_str(), &st) == 0 && !S_ISSOCK(st.st_mode)) {
        return absl::FailedPreconditionError(
            absl::StrCat(path, " exists and is not a socket; move it away, or listen elsewhere"));
      }
    }
    ::unlink(temporary.c_str());
    KeepLibrary();
    grpc::ServerBuilder builder;
    builder.SetMaxReceiveMessageSize(options_.max_message_bytes);
    builder.SetMaxSendMessageSize(options_.max_message_bytes);
    builder.AddChannelArgument(GRPC_ARG_OPTIMIZATION_TARGET, "latency");
    int port = 0;
    builder.AddListeningPort(absl::StrCat("unix:", temporary), grpc::InsecureServerCredentials(),
                             &port);
    builder.RegisterCallbackGenericService(&dispatcher_);
    server_ = builder.BuildAndStart();
    if (server_ == nullptr || port == 0) {
      server_ = nullptr;
      return absl::UnavailableError(absl::StrCat("gRPC cannot listen on ", options_.socket_path));
    }
    if (::chmod(temporary.c_str(), 0660) != 0) {
      return sys::ErrnoStatus(errno, absl::StrCat("chmod ", temporary));
    }
    if (::rename(temporary.c_str(), options_.socket_path.c_str()) != 0) {
      return sys::ErrnoStatus(errno,
                              absl::StrCat("rename ", temporary, " to ", options_.socket_path));
    }
    listening_ = true;
    return absl::OkStatus();
  }

  void Shutdown(absl::Duration grace) override {
    if (server_ == nullptr) return;
    if (listening_) ::unlink(options_.socket_path.c_str());
    server_->Shutdown(absl::ToChronoTime(absl::Now() + grace));
    server_->Wait();
    server_ = nullptr;
  }

 private:
  const ServerOptions options_;
  Dispatcher dispatcher_;
  std::unique_ptr<grpc::Server> server_;
  bool listening_ = false;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Server>> Server::Start(ServerOptions options,
                                                      std::vector<Method> methods,
                                                      WorkerPool* workers) {
  auto server = std::make_unique<GrpcServer>(std::move(options), std::move(methods), workers);
  DAVIT_RETURN_IF_ERROR(server->Listen());
  return server;
}

}  // namespace davit::cri

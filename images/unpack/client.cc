#include "images/unpack/client.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <iterator>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "images/unpack/channel.h"
#include "images/unpack/record_applier.h"
#include "images/unpack/ring_writer.h"
#include "proto/unpack.pb.h"
#include "runtime/sys/errno.h"
#include "runtime/sys/socket.h"
#include "runtime/sys/spawn.h"

namespace davit::images::unpack {
namespace {

using ::davit::unpack::v1::Done;
using ::davit::unpack::v1::Failed;
using ::davit::unpack::v1::FromUnpacker;
using ::davit::unpack::v1::Record;
using ::davit::unpack::v1::ToUnpacker;

constexpr uint64_t kRingBytes = 4 << 20;
// Announced in pieces: a curl callback may bring 16 KiB at a time. Small enough that all of the
// ring's pieces fit the socket's buffer.
constexpr uint64_t kAnnounceBytes = 64 * 1024;
// Once its last message is out, the helper has nothing left to do but exit.
constexpr absl::Duration kExitTime = absl::Seconds(10);
constexpr int kMaxMessagesAtOnce = 1024;
constexpr size_t kMaxRecordBytes = 128 << 20;  // of all records, kept until the stream's end
constexpr size_t kMaxHelperText = 2048;
constexpr int kMaxHelperTexts = 32;
constexpr size_t kSha256Bytes = 32;

// Text from the helper, made fit for a log or an error message. An honest one has escaped the names
// in it already.
std::string Sanitize(absl::string_view text) {
  std::string clean(text.substr(0, kMaxHelperText));
  for (char& c : clean) {
    if (!absl::ascii_isprint(static_cast<unsigned char>(c))) c = '?';
  }
  return clean;
}

ToUnpacker StartMessage(const UnpackOptions& options) {
  ToUnpacker message;
  auto& start = *message.mutable_start();
  start.set_protocol_version(kProtocolVersion);
  start.set_ring_bytes(kRingBytes);
  start.set_lowest_layer(options.lowest_layer);
  start.set_max_tar_bytes(options.limits.max_tar_bytes);
  start.set_max_file_bytes(options.limits.max_file_bytes);
  start.set_max_entries(options.limits.max_entries);
  start.set_max_records(options.limits.max_records);
  start.set_max_path_depth(options.limits.max_path_depth);
  start.set_max_xattr_bytes(options.limits.max_xattr_bytes);
  start.set_max_ratio(options.limits.max_ratio);
  start.set_ratio_floor_bytes(options.limits.ratio_floor_bytes);
  return message;
}

class UnpackProcess : public Unpacker {
 public:
  UnpackProcess(Limits limits, sys::UniqueFd staging, std::unique_ptr<RingWriter> ring,
                sys::UniqueFd socket, sys::SpawnedProcess process)
      : limits_(limits),
        staging_(std::move(staging)),
        ring_(std::move(ring)),
        socket_(std::move(socket)),
        process_(std::move(process)) {}

  ~UnpackProcess() override {
    if (!reaped_) {
      (void)sys::KillPidfd(process_.pidfd.get(), SIGKILL);
      (void)sys::WaitPidfd(process_.pidfd.get(), absl::InfiniteFuture());
    }
  }

  absl::StatusOr<size_t> TryWrite(absl::string_view data) override {
    DAVIT_RETURN_IF_ERROR(status_);
    return Remember(TryWriteOnce(data));
  }

  absl::Status Write(absl::string_view data) override {
    while (!data.empty()) {
      DAVIT_ASSIGN_OR_RETURN(const size_t taken, TryWrite(data));
      data.remove_prefix(taken);
      if (taken == 0) WaitFor(POLLIN);
    }
    return absl::OkStatus();
  }

  absl::StatusOr<UnpackResult> Finish() override {
    DAVIT_RETURN_IF_ERROR(status_);
    if (finished_) return absl::FailedPreconditionError("the unpack has been finished already");
    finished_ = true;
    return Remember(FinishOnce());
  }

  void Abort() override {
    aborted_ = true;
    (void)sys::KillPidfd(process_.pidfd.get(), SIGKILL);
  }

  Progress progress() const override {
    return {consumed_.load(), tar_bytes_.load(), entries_.load()};
  }

  int event_fd() const override { return socket_.get(); }

 private:
  template <typename T>
  absl::StatusOr<T> Remember(absl::StatusOr<T> result) {
    if (!result.ok()) status_ = result.status();
    return result;
  }

  absl::StatusOr<size_t> TryWriteOnce(absl::string_view data) {
    DAVIT_RETURN_IF_ERROR(TakeMessages());
    if (done_.has_value()) return Broken("it finished before the stream did");
    const size_t taken = ring_->Put(data);
    if (ring_->produced() - announced_ >= kAnnounceBytes || ring_->full()) {
      DAVIT_RETURN_IF_ERROR(Announce());
    }
    return taken;
  }

  // Tells the helper what has been put into the ring since the last time.
  absl::Status Announce() {
    if (announced_ == ring_->produced()) return absl::OkStatus();
    ToUnpacker message;
    message.mutable_data()->set_produced(ring_->produced());
    DAVIT_RETURN_IF_ERROR(Send(message));
    announced_ = ring_->produced();
    return absl::OkStatus();
  }

  absl::Status Send(const ToUnpacker& message) {
    for (;;) {
      const absl::Status sent = SendMessage(socket_.get(), message, Wait::kNoWait);
      if (sent.ok()) return sent;
      if (absl::IsUnavailable(sent)) {
        WaitFor(POLLOUT);
        continue;
      }
      if (!absl::IsOutOfRange(sent)) return sent;
      // It may have said why it went.
      DAVIT_RETURN_IF_ERROR(TakeMessages());
      return Died();
    }
  }

  void WaitFor(short events) {
    pollfd entry{socket_.get(), events, 0};
    while (poll(&entry, 1, -1) < 0 && errno == EINTR) {
    }
  }

  // Takes whatever the helper has sent, without waiting.
  absl::Status TakeMessages() {
    // Bounded: a helper that talks without end must not hold the caller.
    bool more = true;
    for (int count = 0; more && count < kMaxMessagesAtOnce; ++count) {
      DAVIT_ASSIGN_OR_RETURN(more, TakeMessage(Wait::kNoWait));
    }
    return absl::OkStatus();
  }

  absl::StatusOr<bool> TakeMessage(Wait wait) {
    if (aborted_) return absl::CancelledError("the unpack was aborted");
    if (done_.has_value()) return false;
    FromUnpacker message;
    const absl::StatusOr<bool> received = ReceiveMessage(socket_.get(), &message, wait);
    if (absl::IsOutOfRange(received.status())) return Died();
    if (absl::IsInvalidArgument(received.status())) return Broken(received.status().message());
    DAVIT_RETURN_IF_ERROR(received.status());
    if (!*received) return false;
    DAVIT_RETURN_IF_ERROR(Take(&message));
    return true;
  }

  absl::Status Take(FromUnpacker* message) {
    switch (message->message_case()) {
      case FromUnpacker::kConsumed: {
        const absl::Status valid = ring_->SetConsumed(message->consumed().consumed());
        if (!valid.ok()) return Broken(valid.message());
        consumed_ = ring_->consumed();
        return absl::OkStatus();
      }
      case FromUnpacker::kTick:
        tar_bytes_ = message->tick().tar_bytes();
        entries_ = message->tick().entries();
        return absl::OkStatus();
      case FromUnpacker::kFailed:
        return FailureOf(message->failed());
      case FromUnpacker::kRecords:
        return TakeRecords(message);
      case FromUnpacker::kDone:
        done_ = std::move(*message->mutable_done());
        return absl::OkStatus();
      default:
        return Broken("it sent an unknown message");
    }
  }

  absl::Status TakeRecords(FromUnpacker* message) {
    if (!finished_) return Broken("it sent records before the stream's end");
    auto& records = *message->mutable_records()->mutable_records();
    record_bytes_ += message->ByteSizeLong();
    if (records.size() > static_cast<int64_t>(limits_.max_records - records_.size()) ||
        record_bytes_ > kMaxRecordBytes) {
      return Broken("it sent too many records");
    }
    std::move(records.begin(), records.end(), std::back_inserter(records_));
    return absl::OkStatus();
  }

  // The helper may not choose just any code: only those that a layer can deserve.
  static absl::Status FailureOf(const Failed& failed) {
    const std::string text = absl::StrCat("unpack the layer: ", Sanitize(failed.message()));
    switch (static_cast<absl::StatusCode>(failed.code())) {
      case absl::StatusCode::kFailedPrecondition:
        return absl::FailedPreconditionError(text);
      case absl::StatusCode::kDataLoss:
        return absl::DataLossError(text);
      case absl::StatusCode::kResourceExhausted:
        return absl::ResourceExhaustedError(text);
      default:
        return absl::InternalError(text);
    }
  }

  static absl::Status Broken(absl::string_view what) {
    return absl::InternalError(absl::StrCat("davit-unpack broke its protocol: ", what));
  }

  // The helper has closed its socket without a last word.
  absl::Status Died() {
    if (aborted_) return absl::CancelledError("the unpack was aborted");
    const absl::StatusOr<int> status = Reap();
    DAVIT_RETURN_IF_ERROR(status.status());
    if (WIFSIGNALED(*status)) {
      return absl::InternalError(absl::StrCat("davit-unpack was killed by signal ",
                                              WTERMSIG(*status), " (", strsignal(WTERMSIG(*status)),
                                              ")"));
    }
    return absl::InternalError(
        absl::StrCat("davit-unpack exited with ", WEXITSTATUS(*status), " in the middle"));
  }

  // Waits for the helper's end, for which nothing is missing any more; forces it after a while.
  absl::StatusOr<int> Reap() {
    absl::StatusOr<int> status = sys::WaitPidfd(process_.pidfd.get(), absl::Now() + kExitTime);
    if (absl::IsDeadlineExceeded(status.status())) {
      (void)sys::KillPidfd(process_.pidfd.get(), SIGKILL);
      status = sys::WaitPidfd(process_.pidfd.get(), absl::InfiniteFuture());
    }
    reaped_ = true;
    return status;
  }

  absl::StatusOr<UnpackResult> FinishOnce() {
    DAVIT_RETURN_IF_ERROR(Announce());
    ToUnpacker message;
    message.mutable_end()->set_produced(ring_->produced());
    DAVIT_RETURN_IF_ERROR(Send(message));
    while (!done_.has_value()) {
      DAVIT_RETURN_IF_ERROR(TakeMessage(Wait::kBlock).status());
    }
    // From here on nobody else touches the staging directory.
    DAVIT_ASSIGN_OR_RETURN(const int exit_status, Reap());
    if (aborted_) return absl::CancelledError("the unpack was aborted");
    if (exit_status != 0) return Broken("it did not end well after its last message");
    DAVIT_ASSIGN_OR_RETURN(UnpackResult result, ResultOf(*done_));
    RecordApplier applier(staging_.get(), limits_);
    for (const Record& record : records_) DAVIT_RETURN_IF_ERROR(applier.Apply(record));
    result.fix_ups = applier.fix_ups();
    result.opaque_root = applier.opaque_root();
    result.inodes += applier.inodes();
    return result;
  }

  absl::StatusOr<UnpackResult> ResultOf(const Done& done) const {
    if (done.sha256().size() != kSha256Bytes || done.compression() > 2 ||
        done.warnings_size() > kMaxHelperTexts) {
      return Broken("its result makes no sense");
    }
    UnpackResult result;
    result.diff_id = absl::StrCat("sha256:", absl::BytesToHexString(done.sha256()));
    result.compressed_size = ring_->produced();
    result.uncompressed_size = done.uncompressed_size();
    result.entries = done.entries();
    result.bytes = done.bytes();
    result.inodes = done.inodes();
    result.compression = static_cast<Compression>(done.compression());
    result.has_root_entry = done.has_root_entry();
    result.dropped_whiteouts = done.dropped_whiteouts();
    for (const std::string& warning : done.warnings()) result.warnings.push_back(Sanitize(warning));
    return result;
  }

  const Limits limits_;
  const sys::UniqueFd staging_;
  const std::unique_ptr<RingWriter> ring_;
  const sys::UniqueFd socket_;
  const sys::SpawnedProcess process_;
  bool reaped_ = false;

  absl::Status status_;  // the first error
  bool finished_ = false;
  uint64_t announced_ = 0;
  std::vector<Record> records_;
  size_t record_bytes_ = 0;
  std::optional<Done> done_;

  std::atomic<bool> aborted_ = false;
  std::atomic<uint64_t> consumed_ = 0;
  std::atomic<uint64_t> tar_bytes_ = 0;
  std::atomic<uint64_t> entries_ = 0;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Unpacker>> StartUnpackProcess(const UnpackOptions& options) {
  sys::UniqueFd staging(openat(options.staging_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!staging.ok()) return sys::ErrnoStatus(errno, "open the staging directory");
  DAVIT_ASSIGN_OR_RETURN(std::unique_ptr<RingWriter> ring, RingWriter::Create(kRingBytes));
  DAVIT_ASSIGN_OR_RETURN(auto sockets, sys::SeqpacketPair());
  sys::SpawnOptions spawn;
  spawn.executable_fd = options.helper_fd;
  spawn.argv = {"davit-unpack"};
  spawn.new_session = true;
  spawn.fds = {
      {sockets.second.get(), kSocketFd}, {ring->fd(), kRingFd}, {staging.get(), kStagingFd}};
  DAVIT_ASSIGN_OR_RETURN(sys::SpawnedProcess process, sys::Spawn(spawn));
  auto unpacker =
      std::make_unique<UnpackProcess>(options.limits, std::move(staging), std::move(ring),
                                      std::move(sockets.first), std::move(process));
  sockets.second.reset();
  DAVIT_RETURN_IF_ERROR(SendMessage(unpacker->event_fd(), StartMessage(options), Wait::kBlock));
  return unpacker;
}

}  // namespace davit::images::unpack

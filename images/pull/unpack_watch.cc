#include "images/pull/unpack_watch.h"

#include "absl/time/clock.h"
#include "runtime/sys/errno.h"
#include "runtime/sys/thread.h"

namespace davit::images {
namespace {

constexpr absl::Duration kInterval = absl::Milliseconds(200);

bool Same(const unpack::Progress& a, const unpack::Progress& b) {
  return a.compressed_bytes == b.compressed_bytes && a.tar_bytes == b.tar_bytes &&
         a.entries == b.entries;
}

}  // namespace

UnpackWatch::UnpackWatch(unpack::Unpacker* unpacker, absl::Duration stall_timeout,
                         const CancelToken* cancel)
    : unpacker_(unpacker), stall_timeout_(stall_timeout), cancel_(cancel) {}

absl::Status UnpackWatch::Start() {
  DAVIT_ASSIGN_OR_RETURN(thread_, sys::StartThread([this] { Run(); }));
  return absl::OkStatus();
}

UnpackWatch::~UnpackWatch() {
  {
    sys::MutexLock lock(&mutex_);
    done_ = true;
    wake_.Signal();
  }
  if (thread_.joinable()) thread_.join();
}

void UnpackWatch::Run() {
  unpack::Progress last = unpacker_->progress();
  absl::Time moved = absl::Now();
  for (;;) {
    {
      sys::MutexLock lock(&mutex_);
      if (!done_) wake_.WaitWithDeadline(&mutex_, absl::Now() + kInterval);
      if (done_) return;
    }
    if (cancel_->cancelled()) {
      unpacker_->Abort();
      return;
    }
    const unpack::Progress now = unpacker_->progress();
    if (!Same(now, last) || !HasWork(now)) moved = absl::Now();
    last = now;
    if (absl::Now() - moved >= stall_timeout_) {
      stalled_.store(true);
      unpacker_->Abort();
      return;
    }
  }
}

}  // namespace davit::images

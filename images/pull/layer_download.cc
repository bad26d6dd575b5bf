#include "images/pull/layer_download.h"

#include <fcntl.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "images/pull/unpack_watch.h"
#include "runtime/sys/errno.h"
#include "runtime/sys/file.h"

namespace davit::images {
namespace {

// libcurl hands over 16 KiB at a time; handing each on would wake the unpacker 16 times as often.
constexpr size_t kBuffer = 256 * 1024;

// A file in staging/ that becomes a blob of the OCI layout, or goes.
class BlobFile {
 public:
  BlobFile(ImageStore* store, const Digest& digest)
      : store_(store), digest_(digest), name_(absl::StrCat("staging/blob-", digest.hex())) {}
  ~BlobFile() { unlinkat(store_->layers().root_fd(), name_.c_str(), 0); }

  absl::Status Open() {
    static std::atomic<uint64_t> sequence{0};
    absl::StrAppend(&name_, "-", sequence.fetch_add(1));  // two pulls may want the same
    DAVIT_ASSIGN_OR_RETURN(
        fd_, sys::OpenAt(store_->layers().root_fd(), name_, O_WRONLY | O_CREAT | O_TRUNC, 0644));
    return absl::OkStatus();
  }
  absl::Status Write(absl::string_view data) {
    size_ += data.size();
    return sys::WriteAll(fd_.get(), data, digest_.ToString());
  }
  absl::StatusOr<std::unique_ptr<OciLayout::Hold>> Adopt() {
    return store_->blobs().Adopt(digest_, store_->layers().root_fd(), name_, size_);
  }

 private:
  ImageStore* const store_;
  const Digest digest_;
  std::string name_;
  sys::UniqueFd fd_;
  uint64_t size_ = 0;
};

// Between the network and the unpacker.
class Feeder {
 public:
  Feeder(unpack::Unpacker* unpacker, UnpackWatch* watch, BlobFile* file)
      : unpacker_(unpacker), watch_(watch), file_(file) {
    buffer_.reserve(kBuffer);
  }

  absl::Status Write(absl::string_view data) {
    if (file_ != nullptr) DAVIT_RETURN_IF_ERROR(file_->Write(data));
    if (!refused_.ok()) return absl::OkStatus();
    buffer_.append(data.data(), data.size());
    return buffer_.size() < kBuffer ? absl::OkStatus() : Flush();
  }

  absl::Status Flush() {
    if (!refused_.ok() || buffer_.empty()) return absl::OkStatus();
    watch_->Fed(buffer_.size());
    absl::Status status = unpacker_->Write(buffer_);
    buffer_.clear();
    // Bad content, but perhaps not what the manifest promised: go on reading, so that the digest
    // decides whether the image or a mirror is to blame.
    if (absl::IsFailedPrecondition(status) || absl::IsDataLoss(status)) {
      refused_ = status;
      return absl::OkStatus();
    }
    return status;
  }

  const absl::Status& refused() const { return refused_; }

 private:
  unpack::Unpacker* const unpacker_;
  UnpackWatch* const watch_;
  BlobFile* const file_;
  std::string buffer_;
  absl::Status refused_;
};

absl::StatusOr<unpack::UnpackResult> Stream(RepositoryClient& client, const Descriptor& layer,
                                            unpack::Unpacker* unpacker, BlobFile* file,
                                            absl::Duration stall_timeout,
                                            const CancelToken& cancel) {
  UnpackWatch watch(unpacker, stall_timeout, &cancel);
  DAVIT_RETURN_IF_ERROR(watch.Start());
  Feeder feeder(unpacker, &watch, file);
  absl::Status status = client.FetchBlob(
      layer, [&feeder](absl::string_view data) { return feeder.Write(data); }, cancel);
  if (status.ok()) status = feeder.Flush();
  if (status.ok()) status = feeder.refused();
  if (status.ok()) watch.Finishing();
  absl::StatusOr<unpack::UnpackResult> result =
      status.ok() ? unpacker->Finish() : absl::StatusOr<unpack::UnpackResult>(status);
  if (watch.stalled()) {
    return absl::DeadlineExceededError(
        absl::StrCat("the unpacker made no progress for ", absl::FormatDuration(stall_timeout)));
  }
  return result;
}

absl::StatusOr<std::unique_ptr<UnpackedLayer>> DownloadOnce(
    ImageStore* store, RepositoryClient& client, const Descriptor& layer, const Digest& diff_id,
    bool lowest, const LayerDownloadOptions& options, const CancelToken& cancel) {
  DAVIT_ASSIGN_OR_RETURN(LayerStore::Staging staging, store->layers().Begin());
  auto unpacked = std::make_unique<UnpackedLayer>(store, std::move(staging));
  unpack::UnpackOptions unpack_options;
  unpack_options.helper_fd = options.helper_fd;
  unpack_options.staging_fd = unpacked->dir();
  unpack_options.lowest_layer = lowest;
  DAVIT_ASSIGN_OR_RETURN(const std::unique_ptr<unpack::Unpacker> unpacker,
                         options.unpacker(unpack_options));
  std::unique_ptr<BlobFile> file;
  if (options.keep_blob) {
    file = std::make_unique<BlobFile>(store, layer.digest);
    DAVIT_RETURN_IF_ERROR(file->Open());
  }
  DAVIT_ASSIGN_OR_RETURN(unpacked->result, Stream(client, layer, unpacker.get(), file.get(),
                                                  options.stall_timeout, cancel));
  if (unpacked->result.diff_id != diff_id.ToString()) {
    return absl::DataLossError(absl::StrCat("its content has the diff ID ",
                                            unpacked->result.diff_id, ", the image config says ",
                                            diff_id.ToString()));
  }
  if (file != nullptr) {
    DAVIT_ASSIGN_OR_RETURN(unpacked->blob, file->Adopt());
  }
  return unpacked;
}

constexpr int kMaxRounds = 16;  // more mirrors than anybody configures

}  // namespace

absl::StatusOr<std::unique_ptr<UnpackedLayer>> DownloadLayer(
    ImageStore* store, RepositoryClient& client, const Descriptor& layer, const Digest& diff_id,
    bool lowest, const LayerDownloadOptions& options, const CancelToken& cancel) {
  for (int round = 0;; ++round) {
    auto unpacked = DownloadOnce(store, client, layer, diff_id, lowest, options, cancel);
    if (unpacked.ok()) {
      for (const std::string& warning : (*unpacked)->result.warnings) {
        spdlog::warn("layer {}: {}", layer.digest.ToString(), warning);
      }
      return unpacked;
    }
    // A mirror lied and has been disabled.
    if (absl::IsAborted(unpacked.status()) && round < kMaxRounds) continue;
    return unpacked.status();
  }
}

absl::StatusOr<std::unique_ptr<OciLayout::Hold>> DownloadBlob(ImageStore* store,
                                                              RepositoryClient& client,
                                                              const Descriptor& descriptor,
                                                              const CancelToken& cancel) {
  for (int round = 0;; ++round) {
    BlobFile file(store, descriptor.digest);
    DAVIT_RETURN_IF_ERROR(file.Open());
    const absl::Status status = client.FetchBlob(
        descriptor, [&file](absl::string_view data) { return file.Write(data); }, cancel);
    if (status.ok()) return file.Adopt();
    if (!absl::IsAborted(status) || round >= kMaxRounds) return status;
  }
}

}  // namespace davit::images

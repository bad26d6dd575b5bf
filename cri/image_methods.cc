#include "cri/image_methods.h"

#include <memory>
#include <string>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "cri/translate_pod.h"
#include "cri/verbose_info.h"
#include "proto/api.pb.h"
#include "runtime/sys/errno.h"
#include "runtime/sys/mutex.h"

namespace davit::cri {
namespace {

namespace v1 = ::runtime::v1;
using Runs = Method::Runs;

constexpr int kStreamChunk = 256;

// All images, or the one that the filter names.
std::vector<std::shared_ptr<const images::Image>> Listed(const images::ImageService& images,
                                                         const v1::ImageFilter& filter) {
  if (filter.image().image().empty()) return images.List();
  std::vector<std::shared_ptr<const images::Image>> found;
  if (auto image = images.Find(filter.image().image())) found.push_back(std::move(image));
  return found;
}

std::vector<v1::StreamImagesResponse> StreamImages(const images::ImageService& images,
                                                   const v1::ImageFilter& filter) {
  std::vector<v1::StreamImagesResponse> messages;
  for (const auto& image : Listed(images, filter)) {
    if (messages.empty() || messages.back().images_size() >= kStreamChunk) messages.emplace_back();
    ToImage(*image, messages.back().add_images());
  }
  return messages;
}

absl::Status ImageStatus(const images::ImageService& images, const v1::ImageStatusRequest& request,
                         v1::ImageStatusResponse* out) {
  if (request.image().image().empty()) {
    return absl::InvalidArgumentError("image.image: is missing");
  }
  const auto image = images.Find(request.image().image());
  if (image == nullptr) return absl::OkStatus();  // an empty answer, never NotFound
  ToImage(*image, out->mutable_image());
  if (request.verbose()) (*out->mutable_info())["info"] = ImageInfo(*image);
  return absl::OkStatus();
}

void FillFsInfo(const images::FsUsage& usage, v1::FilesystemUsage* out) {
  out->set_timestamp(absl::GetCurrentTimeNanos());
  out->mutable_fs_id()->set_mountpoint(usage.mountpoint);
  out->mutable_used_bytes()->set_value(usage.used_bytes);
  out->mutable_inodes_used()->set_value(usage.inodes);
}

absl::StatusOr<images::PullRequest> TranslatePull(const v1::PullImageRequest& request) {
  if (request.image().image().empty()) {
    return absl::InvalidArgumentError("image.image: is missing");
  }
  DAVIT_RETURN_IF_ERROR(CheckRuntimeHandler(request.image().runtime_handler()));
  images::PullRequest pull;
  pull.reference = request.image().image();
  pull.annotations = {request.image().annotations().begin(), request.image().annotations().end()};
  if (request.has_auth()) {
    const v1::AuthConfig& auth = request.auth();
    pull.credentials =
        images::Credentials{auth.username(),       auth.password(),       auth.auth(),
                            auth.identity_token(), auth.registry_token(), auth.server_address()};
  }
  return pull;
}

// Ties a pull to its call: a client that goes away stops waiting. The ticket may only be there
// after the pull has ended, or after the client has gone.
class PullLink {
 public:
  void SetTicket(std::unique_ptr<images::PullTicket> ticket) {
    bool cancel = false;
    {
      sys::MutexLock lock(&mutex_);
      if (ended_) return;  // `ticket` goes here, outside the pull's own callback
      cancel = cancelled_;
      ticket_ = std::move(ticket);
    }
    if (cancel) Cancel();
  }
  void Cancel() {
    std::shared_ptr<images::PullTicket> ticket;
    {
      sys::MutexLock lock(&mutex_);
      cancelled_ = true;
      ticket = ticket_;
    }
    if (ticket != nullptr) ticket->Cancel();
  }
  void End() {
    sys::MutexLock lock(&mutex_);
    ended_ = true;
  }

 private:
  sys::Mutex mutex_;
  std::shared_ptr<images::PullTicket> ticket_ ABSL_GUARDED_BY(mutex_);
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;
};

void PullImage(images::ImageService* images, const CallPtr& call,
               const v1::PullImageRequest& request, Done<v1::PullImageResponse> done) {
  absl::StatusOr<images::PullRequest> pull = TranslatePull(request);
  if (!pull.ok()) return done(pull.status());
  auto link = std::make_shared<PullLink>();
  call->NotifyOnCancel([link] { link->Cancel(); });
  link->SetTicket(images->Pull(
      *std::move(pull), [link, done = std::move(done)](absl::StatusOr<std::string> image_id) {
        link->End();
        if (!image_id.ok()) return done(image_id.status());
        v1::PullImageResponse response;
        response.set_image_ref(*std::move(image_id));
        done(std::move(response));
      }));
}

}  // namespace

void ToImage(const images::Image& image, v1::Image* out) {
  out->set_id(image.id);
  *out->mutable_repo_tags() = {image.repo_tags.begin(), image.repo_tags.end()};
  *out->mutable_repo_digests() = {image.repo_digests.begin(), image.repo_digests.end()};
  out->set_size(image.size);
  out->set_pinned(image.pinned);
  // Either the number or the name of the user, without the group.
  const std::pair<std::string, std::string> user =
      absl::StrSplit(image.config.user, absl::MaxSplits(':', 1));
  int64_t uid = 0;
  if (absl::SimpleAtoi(user.first, &uid)) {
    out->mutable_uid()->set_value(uid);
  } else {
    out->set_username(user.first);
  }
  v1::ImageSpec* spec = out->mutable_spec();
  spec->set_image(image.repo_tags.empty() ? image.id : image.repo_tags.front());
  for (const auto& [key, value] : image.annotations) (*spec->mutable_annotations())[key] = value;
}

std::vector<Method> ImageMethods(images::ImageService* images) {
  std::vector<Method> methods;
  methods.push_back(UnaryLater<v1::PullImageRequest, v1::PullImageResponse>(
      "/runtime.v1.ImageService/PullImage", true,
      [images](const CallPtr& call, const auto& request, Done<v1::PullImageResponse> done) {
        PullImage(images, call, request, std::move(done));
      }));
  methods.push_back(Unary<v1::ImageStatusRequest, v1::ImageStatusResponse>(
      "/runtime.v1.ImageService/ImageStatus", Runs::kInline, false,
      [images](const auto& request, auto* out) { return ImageStatus(*images, request, out); }));
  methods.push_back(Unary<v1::ListImagesRequest, v1::ListImagesResponse>(
      "/runtime.v1.ImageService/ListImages", Runs::kInline, false,
      [images](const auto& request, auto* out) {
        for (const auto& image : Listed(*images, request.filter())) {
          ToImage(*image, out->add_images());
        }
        return absl::OkStatus();
      }));
  methods.push_back(ListStream<v1::StreamImagesRequest, v1::StreamImagesResponse>(
      "/runtime.v1.ImageService/StreamImages", Runs::kInline,
      [images](const auto& request) { return StreamImages(*images, request.filter()); }));
  methods.push_back(Unary<v1::RemoveImageRequest, v1::RemoveImageResponse>(
      "/runtime.v1.ImageService/RemoveImage", Runs::kOnWorker, true,
      [images](const auto& request, auto*) -> absl::Status {
        if (request.image().image().empty()) {
          return absl::InvalidArgumentError("image.image: is missing");
        }
        return images->Remove(request.image().image());
      }));
  // Containers' writable layers are on the same file system as the images.
  methods.push_back(Unary<v1::ImageFsInfoRequest, v1::ImageFsInfoResponse>(
      "/runtime.v1.ImageService/ImageFsInfo", Runs::kInline, false,
      [images](const auto&, auto* out) {
        const images::FsUsage usage = images->Usage();
        FillFsInfo(usage, out->add_image_filesystems());
        FillFsInfo(usage, out->add_container_filesystems());
        return absl::OkStatus();
      }));
  return methods;
}

}  // namespace davit::cri

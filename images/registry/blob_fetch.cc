#include "images/registry/blob_fetch.h"

#include <algorithm>
#include <optional>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "images/registry/registry_error.h"
#include "runtime/sys/errno.h"

namespace davit::images {
namespace {

// Below this much new data an attempt counts as one without progress, or a server that sends a byte
// and hangs up would be asked for ever.
constexpr uint64_t kProgress = 64 * 1024;

// "bytes 10-99/100" -> 10
std::optional<uint64_t> RangeStart(absl::string_view content_range) {
  uint64_t start = 0;
  if (!absl::ConsumePrefix(&content_range, "bytes ") ||
      !absl::SimpleAtoi(content_range.substr(0, content_range.find('-')), &start)) {
    return std::nullopt;
  }
  return start;
}

}  // namespace

BlobFetch::BlobFetch(RepositoryClient* client, const Descriptor& descriptor,
                     const BlobWriter& writer, const CancelToken& cancel)
    : client_(client),
      descriptor_(descriptor),
      writer_(writer),
      cancel_(cancel),
      hasher_(descriptor.digest.algorithm()) {}

absl::Status BlobFetch::Run() {
  if (descriptor_.size == 0) return Verify();
  const std::vector<RepositoryClient::Source*> sources = client_->Sources();
  absl::Status last = absl::UnavailableError("there is no registry to ask");
  for (size_t i = 0; i < sources.size(); ++i) {
    const bool final_source = i + 1 == sources.size();
    last = FetchFrom(*sources[i], final_source ? client_->context_->retry.blob_attempts : 2);
    if (last.ok()) return Verify();
    if (!fatal_.ok()) return fatal_;
    if (absl::IsCancelled(last)) return last;
  }
  return last;
}

absl::Status BlobFetch::FetchFrom(RepositoryClient::Source& source, int attempts) {
  const RetryPolicy& retry = client_->context_->retry;
  for (int attempt = 1;; ++attempt) {
    const uint64_t before = received_;
    retry_after_.reset();
    absl::Status status = Request(source);
    if (status.ok() || !fatal_.ok()) return status;
    if (!absl::IsUnavailable(status) || IsPermanent(status)) return status;
    // Only the end mark got lost. There is nothing to ask for from here on, and a server answers
    // 416 to that; the digest says whether it was all.
    if (received_ == descriptor_.size) return absl::OkStatus();
    if (received_ - before >= kProgress) attempt = 0;
    if (attempt >= attempts) return status;
    DAVIT_RETURN_IF_ERROR(SleepFor(BackoffDelay(retry, attempt, retry_after_), cancel_));
  }
}

absl::Status BlobFetch::Request(RepositoryClient::Source& source) {
  std::vector<std::string> headers;
  if (received_ > 0) headers.push_back(absl::StrCat("Range: bytes=", received_, "-"));
  current_ = &source;
  discard_ = 0;
  DAVIT_ASSIGN_OR_RETURN(const FollowedResponse followed,
                         client_->Get(source, absl::StrCat("blobs/", descriptor_.digest.ToString()),
                                      headers, this, cancel_));
  const HttpResponse& response = followed.response;
  if (response.status < 200 || response.status >= 300) {
    retry_after_ = ParseRetryAfter(response.Header("retry-after"), absl::Now());
    absl::Status status = StatusFromResponse(response, source.endpoint.base.Origin());
    // The signature in a redirect's URL runs out; the registry makes a new one.
    if (!followed.from_origin && (response.status == 403 || response.status == 401)) {
      return absl::UnavailableError(status.message());
    }
    return status;
  }
  if (received_ < descriptor_.size) {
    return absl::UnavailableError(absl::StrCat(source.endpoint.base.Origin(),
                                               ": the body ended at ", received_, " of ",
                                               descriptor_.size, " bytes"));
  }
  return absl::OkStatus();
}

absl::Status BlobFetch::Begin(const HttpResponse& response) {
  if (response.status == 206) return BeginPartial(response);
  if (response.status != 200) {
    return absl::UnavailableError(
        absl::StrCat("HTTP ", response.status, " to a request for a blob"));
  }
  // The range was ignored: the beginning comes once more.
  discard_ = received_;
  uint64_t length = 0;
  if (absl::SimpleAtoi(response.Header("content-length"), &length) && length != descriptor_.size) {
    fatal_ = Broken(absl::StrCat(current_->endpoint.base.Origin(), " announces ", length,
                                 " bytes, the manifest says ", descriptor_.size));
    return fatal_;
  }
  return absl::OkStatus();
}

absl::Status BlobFetch::BeginPartial(const HttpResponse& response) const {
  const auto start = RangeStart(response.Header("content-range"));
  if (received_ == 0 || start != received_) {
    return absl::UnavailableError("the server sent another range than it was asked for");
  }
  return absl::OkStatus();
}

absl::Status BlobFetch::Append(absl::string_view data) {
  if (discard_ > 0) {
    const size_t skipped = std::min<uint64_t>(discard_, data.size());
    data.remove_prefix(skipped);
    discard_ -= skipped;
    if (data.empty()) return absl::OkStatus();
  }
  if (data.size() > descriptor_.size - received_) {
    fatal_ = Broken(absl::StrCat(current_->endpoint.base.Origin(), " sends more than the ",
                                 descriptor_.size, " bytes that the manifest says"));
    return fatal_;
  }
  if (contributors_.empty() || contributors_.back() != current_) contributors_.push_back(current_);
  hasher_.Update(data.data(), data.size());
  fatal_ = writer_(data);
  if (fatal_.ok()) received_ += data.size();
  return fatal_;
}

absl::Status BlobFetch::Verify() {
  const Digest digest = hasher_.Finish();
  if (digest == descriptor_.digest) return absl::OkStatus();
  return Broken(
      absl::StrCat("the content's digest is ", digest.ToString(), ", not what the manifest says"));
}

absl::Status BlobFetch::Broken(absl::string_view message) {
  bool mirror_took_part = false;
  const auto disable = [&mirror_took_part](RepositoryClient::Source* source) {
    if (source == nullptr || source->endpoint.is_origin) return;
    source->disabled.store(true);
    mirror_took_part = true;
  };
  disable(current_);
  for (RepositoryClient::Source* source : contributors_) disable(source);
  // A mirror must not be able to make images unpullable.
  return mirror_took_part ? absl::AbortedError(message) : absl::DataLossError(message);
}

}  // namespace davit::images

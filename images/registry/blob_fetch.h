#ifndef DAVIT_IMAGES_REGISTRY_BLOB_FETCH_H_
#define DAVIT_IMAGES_REGISTRY_BLOB_FETCH_H_

#include <cstdint>

#include "images/registry/repository_client.h"

namespace davit::images {

// One blob on its way from a RepositoryClient's sources: hashes what passes, goes on after a break,
// moves to the next source. Used once, by one thread.
class BlobFetch : private BodySink {
 public:
  BlobFetch(RepositoryClient* client, const Descriptor& descriptor, const BlobWriter& writer,
            const CancelToken& cancel);

  absl::Status Run();

 private:
  absl::Status Begin(const HttpResponse& response) override;
  absl::Status Append(absl::string_view data) override;
  absl::Status BeginPartial(const HttpResponse& response) const;

  absl::Status FetchFrom(RepositoryClient::Source& source, int attempts);
  // One request; OK when the blob is complete, Unavailable when it is worth going on.
  absl::Status Request(RepositoryClient::Source& source);
  absl::Status Verify();
  // What was sent contradicts the manifest. DataLoss if only the registry itself can be blamed;
  // else the mirrors that took part are not asked again, and the result is Aborted.
  absl::Status Broken(absl::string_view message);

  RepositoryClient* const client_;
  const Descriptor& descriptor_;
  const BlobWriter& writer_;
  const CancelToken& cancel_;
  Hasher hasher_;
  uint64_t received_ = 0;  // bytes that went to the writer
  uint64_t discard_ = 0;   // of this answer: bytes that are there already
  absl::Status fatal_;     // the writer's, or a promise that was broken
  RepositoryClient::Source* current_ = nullptr;
  std::vector<RepositoryClient::Source*> contributors_;  // whose bytes went to the writer
  std::optional<absl::Duration> retry_after_;
};

}  // namespace davit::images

#endif  // DAVIT_IMAGES_REGISTRY_BLOB_FETCH_H_

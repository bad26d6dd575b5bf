#ifndef DAVIT_IMAGES_DIGEST_H_
#define DAVIT_IMAGES_DIGEST_H_

#include <compare>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace davit::images {

// A content digest that has been checked: a known algorithm and exactly its number of lowercase hex
// digits, so that it may be used in a path or a URL as it is (image-spec descriptor.md, "Digests").
// A value type.
class Digest {
 public:
  enum class Algorithm { kSha256, kSha512 };

  Digest() = default;  // empty()

  // InvalidArgument for what breaks the grammar; Unimplemented for a well-formed digest of an
  // algorithm that is not supported (blake3, ...).
  static absl::StatusOr<Digest> Parse(absl::string_view text);

  bool empty() const { return hex_.empty(); }
  Algorithm algorithm() const { return algorithm_; }
  absl::string_view algorithm_name() const;  // "sha256", also the directory name in an OCI layout
  const std::string& hex() const { return hex_; }
  std::string ToString() const;  // "sha256:<hex>"; "" if empty

  friend bool operator==(const Digest&, const Digest&) = default;
  friend auto operator<=>(const Digest&, const Digest&) = default;

 private:
  friend class Hasher;
  Digest(Algorithm algorithm, std::string hex) : algorithm_(algorithm), hex_(std::move(hex)) {}

  Algorithm algorithm_ = Algorithm::kSha256;
  std::string hex_;
};

// Hashes a stream with OpenSSL (which uses the CPU's SHA instructions). Not thread-safe.
class Hasher {
 public:
  explicit Hasher(Digest::Algorithm algorithm);
  ~Hasher();
  Hasher(const Hasher&) = delete;
  Hasher& operator=(const Hasher&) = delete;

  void Update(const void* data, size_t size);
  // The digest of everything so far. Call once.
  Digest Finish();

  static Digest Hash(Digest::Algorithm algorithm, absl::string_view data);

 private:
  struct Context;
  std::unique_ptr<Context> context_;
  Digest::Algorithm algorithm_;
};

// The chain IDs of a list of diff IDs, bottom first (image-spec config.md, "Layer ChainID").
std::string NextChainId(absl::string_view parent_chain_id, absl::string_view diff_id);

}  // namespace davit::images

#endif  // DAVIT_IMAGES_DIGEST_H_

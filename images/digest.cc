#include "images/digest.h"

#include <openssl/evp.h>

#include <cstdlib>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"

namespace davit::images {
namespace {

size_t HexLength(Digest::Algorithm algorithm) {
  return algorithm == Digest::Algorithm::kSha256 ? 64 : 128;
}

bool IsLowerHex(absl::string_view text) {
  for (const char c : text) {
    if (!(absl::ascii_isdigit(c) || (c >= 'a' && c <= 'f'))) return false;
  }
  return true;
}

// descriptor.md: algorithm ::= component (separator component)*, separator one of + . _ -
bool IsAlgorithmName(absl::string_view text) {
  bool after_separator = true;
  for (const char c : text) {
    if (absl::ascii_islower(c) || absl::ascii_isdigit(c)) {
      after_separator = false;
    } else if (!after_separator && (c == '+' || c == '.' || c == '_' || c == '-')) {
      after_separator = true;
    } else {
      return false;
    }
  }
  return !text.empty() && !after_separator;
}

bool IsEncoded(absl::string_view text) {
  for (const char c : text) {
    if (!absl::ascii_isalnum(c) && c != '=' && c != '_' && c != '-') return false;
  }
  return !text.empty();
}

// What an error message may show of a text that a stranger wrote.
std::string Shown(absl::string_view text) { return absl::CHexEscape(text.substr(0, 160)); }

}  // namespace

absl::StatusOr<Digest> Digest::Parse(absl::string_view text) {
  const size_t colon = text.find(':');
  const absl::string_view name = text.substr(0, colon);
  const absl::string_view encoded =
      colon == absl::string_view::npos ? absl::string_view() : text.substr(colon + 1);
  if (!IsAlgorithmName(name) || !IsEncoded(encoded)) {
    return absl::InvalidArgumentError(absl::StrCat("\"", Shown(text), "\" is not a digest"));
  }
  Algorithm algorithm;
  if (name == "sha256") {
    algorithm = Algorithm::kSha256;
  } else if (name == "sha512") {
    algorithm = Algorithm::kSha512;
  } else {
    return absl::UnimplementedError(
        absl::StrCat("digest algorithm \"", Shown(name), "\" is not supported"));
  }
  if (encoded.size() != HexLength(algorithm) || !IsLowerHex(encoded)) {
    return absl::InvalidArgumentError(absl::StrCat("\"", Shown(text), "\" is not a digest: ", name,
                                                   " needs ", HexLength(algorithm),
                                                   " lowercase hex digits"));
  }
  return Digest(algorithm, std::string(encoded));
}

absl::string_view Digest::algorithm_name() const {
  return algorithm_ == Algorithm::kSha256 ? "sha256" : "sha512";
}

std::string Digest::ToString() const {
  return empty() ? std::string() : absl::StrCat(algorithm_name(), ":", hex_);
}

struct Hasher::Context {
  EVP_MD_CTX* evp = EVP_MD_CTX_new();
  ~Context() { EVP_MD_CTX_free(evp); }
};

Hasher::Hasher(Digest::Algorithm algorithm)
    : context_(std::make_unique<Context>()), algorithm_(algorithm) {
  // Only a lack of memory or a broken OpenSSL fails here, and a digest that was not computed must
  // never pass for one.
  const EVP_MD* md = algorithm == Digest::Algorithm::kSha256 ? EVP_sha256() : EVP_sha512();
  if (context_->evp == nullptr || EVP_DigestInit_ex(context_->evp, md, nullptr) != 1) std::abort();
}

Hasher::~Hasher() = default;

void Hasher::Update(const void* data, size_t size) {
  if (EVP_DigestUpdate(context_->evp, data, size) != 1) std::abort();
}

Digest Hasher::Finish() {
  unsigned char out[EVP_MAX_MD_SIZE];
  unsigned int size = 0;
  if (EVP_DigestFinal_ex(context_->evp, out, &size) != 1) std::abort();
  return Digest(algorithm_, absl::BytesToHexString(
                                absl::string_view(reinterpret_cast<const char*>(out), size)));
}

Digest Hasher::Hash(Digest::Algorithm algorithm, absl::string_view data) {
  Hasher hasher(algorithm);
  hasher.Update(data.data(), data.size());
  return hasher.Finish();
}

std::string NextChainId(absl::string_view parent_chain_id, absl::string_view diff_id) {
  if (parent_chain_id.empty()) return std::string(diff_id);
  return Hasher::Hash(Digest::Algorithm::kSha256, absl::StrCat(parent_chain_id, " ", diff_id))
      .ToString();
}

}  // namespace davit::images

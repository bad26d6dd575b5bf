#ifndef DAVIT_IMAGES_REGISTRY_HTTP_H_
#define DAVIT_IMAGES_REGISTRY_HTTP_H_

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "images/cancel.h"
#include "images/registry/proxy.h"
#include "images/registry/url.h"

namespace davit::images {

struct TlsOptions {
  std::string ca_file;          // PEM; empty = the system's
  bool system_cas_too = false;  // with ca_file: trust the system's as well
  bool skip_verify = false;
};

struct HttpRequest {
  Url url;
  std::vector<std::string> headers;  // "Name: value"
  std::optional<std::string> form;   // POST of application/x-www-form-urlencoded; else GET
  TlsOptions tls;
};

struct HttpResponse {
  int status = 0;
  std::vector<std::pair<std::string, std::string>> headers;  // lowercase names
  std::string error_body;  // of an answer that is not 2xx: its first 64 KiB

  std::string Header(absl::string_view lowercase_name) const;  // the first; "" if absent
  std::vector<std::string> AllHeaders(absl::string_view lowercase_name) const;
};

// Takes the body of a 2xx answer. An error ends the transfer.
class BodySink {
 public:
  virtual ~BodySink() = default;
  // Once, when the headers are there and before any body: the place to refuse a size.
  virtual absl::Status Begin(const HttpResponse& response) = 0;
  virtual absl::Status Append(absl::string_view data) = 0;
};

// Keeps a body of at most `limit` bytes.
class StringSink : public BodySink {
 public:
  explicit StringSink(size_t limit) : limit_(limit) {}
  absl::Status Begin(const HttpResponse& response) override;
  absl::Status Append(absl::string_view data) override;
  std::string& body() { return body_; }

 private:
  const size_t limit_;
  std::string body_;
};

// An error that repeating the same request cannot cure (an untrusted certificate).
absl::Status Permanent(absl::Status status);
bool IsPermanent(const absl::Status& status);

struct HttpClientOptions {
  ProxySettings proxy;
  absl::Duration connect_timeout = absl::Seconds(30);
  // Less than `minimum_rate` bytes a second over so long, not counting the time in which the sink
  // did not take more, and the transfer is given up.
  absl::Duration stall_timeout = absl::Seconds(60);
  int minimum_rate = 256;
};

// One HTTP exchange at a time for each calling thread, over libcurl's multi interface. Connections
// are kept for later requests of this object, which therefore must serve one set of credentials
// only. Redirects, authentication, cookies and .netrc are not libcurl's business: it does none of
// them. TLS 1.2 or newer. Compressed transfers are neither asked for nor accepted. Thread-safe.
class HttpClient {
 public:
  explicit HttpClient(HttpClientOptions options);
  ~HttpClient();
  HttpClient(const HttpClient&) = delete;
  HttpClient& operator=(const HttpClient&) = delete;

  // Blocks until the answer has been read. Any HTTP status is an answer, not an error.
  // Errors: what the sink said; Cancelled; Unavailable for the network (IsPermanent where trying
  // again is useless). Messages name the host, never the query or a header.
  absl::StatusOr<HttpResponse> Perform(const HttpRequest& request, BodySink* sink,
                                       const CancelToken& cancel);

 private:
  struct Connection;
  class Pool;
  const HttpClientOptions options_;
  const std::unique_ptr<Pool> pool_;
};

}  // namespace davit::images

#endif  // DAVIT_IMAGES_REGISTRY_HTTP_H_

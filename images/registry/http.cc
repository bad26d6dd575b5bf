#include "images/registry/http.h"

#include <curl/curl.h>
#include <sys/socket.h>

#include <cerrno>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "runtime/sys/errno.h"
#include "runtime/sys/mutex.h"

namespace davit::images {
namespace {

constexpr size_t kMaxHeaderBytes = 256 * 1024;
constexpr size_t kMaxErrorBody = 64 * 1024;
constexpr char kPermanentPayload[] = "davit/permanent";
constexpr absl::Duration kPollInterval = absl::Milliseconds(200);

// What one transfer's callbacks share.
struct Transfer {
  BodySink* sink;
  HttpResponse response;
  size_t header_bytes = 0;
  bool begun = false;
  bool enough = false;  // the error body has been read as far as it interests
  absl::Status failure;
  uint64_t received = 0;
  int socket_error = 0;  // errno of a socket that could not be made

  bool Success() const { return response.status >= 200 && response.status < 300; }

  // False ends the transfer with `failure`.
  bool Begin() {
    if (begun) return true;
    begun = true;
    if (!Success()) return true;
    const std::string encoding = absl::AsciiStrToLower(response.Header("content-encoding"));
    if (!encoding.empty() && encoding != "identity") {
      failure = absl::FailedPreconditionError(
          "the server sent a Content-Encoding that was not asked for");
      return false;
    }
    failure = sink->Begin(response);
    return failure.ok();
  }

  bool Append(absl::string_view data) {
    received += data.size();
    if (!Begin()) return false;
    if (Success()) {
      failure = sink->Append(data);
      return failure.ok();
    }
    const size_t room = kMaxErrorBody - response.error_body.size();
    response.error_body.append(data.data(), std::min(room, data.size()));
    enough = response.error_body.size() == kMaxErrorBody;
    return !enough;
  }

  bool Header(absl::string_view line) {
    header_bytes += line.size();
    if (header_bytes > kMaxHeaderBytes) {
      failure = absl::FailedPreconditionError("the server's headers are too long");
      return false;
    }
    line = absl::StripAsciiWhitespace(line);
    // Each status line starts the headers of an answer anew: 100 Continue, a proxy's CONNECT.
    if (absl::StartsWith(line, "HTTP/")) {
      response.headers.clear();
      const size_t space = line.find(' ');
      response.status = 0;
      if (space != absl::string_view::npos &&
          !absl::SimpleAtoi(line.substr(space + 1, 3), &response.status)) {
        response.status = 0;
      }
      return true;
    }
    const size_t colon = line.find(':');
    if (colon == absl::string_view::npos) return true;
    response.headers.emplace_back(absl::AsciiStrToLower(line.substr(0, colon)),
                                  std::string(absl::StripAsciiWhitespace(line.substr(colon + 1))));
    return true;
  }
};

size_t OnBody(char* data, size_t, size_t size, void* transfer) {
  return static_cast<Transfer*>(transfer)->Append({data, size}) ? size : size + 1;
}

size_t OnHeader(char* data, size_t, size_t size, void* transfer) {
  return static_cast<Transfer*>(transfer)->Header({data, size}) ? size : size + 1;
}

// As libcurl would, but with what the kernel says: to libcurl every failure is the server's.
curl_socket_t OnOpenSocket(void* transfer, curlsocktype, curl_sockaddr* address) {
  const int fd = socket(address->family, address->socktype | SOCK_CLOEXEC, address->protocol);
  if (fd < 0) static_cast<Transfer*>(transfer)->socket_error = errno;
  return fd < 0 ? CURL_SOCKET_BAD : fd;
}

// This node has no socket to spare: nothing that the registry could help.
bool IsShortage(int error) {
  return error == EMFILE || error == ENFILE || error == ENOMEM || error == ENOBUFS;
}

absl::Status TransportError(CURLcode code, const char* detail, const Url& url) {
  absl::Status status = absl::UnavailableError(
      absl::StrCat(url.Origin(), ": ", detail[0] != '\0' ? detail : curl_easy_strerror(code)));
  switch (code) {
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_SSL_CACERT_BADFILE:
    case CURLE_SSL_ISSUER_ERROR:
    case CURLE_SSL_PINNEDPUBKEYNOTMATCH:
    case CURLE_UNSUPPORTED_PROTOCOL:
    case CURLE_URL_MALFORMAT:
      return Permanent(std::move(status));
    default:
      return status;
  }
}

// Gives up on a peer that neither fails nor delivers. Only time spent waiting for the network
// counts: an unpacker that is slower than the network is no fault of the registry.
class StallWatch {
 public:
  StallWatch(absl::Duration limit, int minimum_rate)
      : limit_(limit), minimum_(absl::ToDoubleSeconds(limit) * minimum_rate) {}

  bool Stalled(absl::Duration waited, uint64_t received) {
    waited_ += waited;
    if (waited_ < limit_) return false;
    if (static_cast<double>(received - received_before_) < minimum_) return true;
    waited_ = absl::ZeroDuration();
    received_before_ = received;
    return false;
  }

 private:
  const absl::Duration limit_;
  const double minimum_;
  absl::Duration waited_;
  uint64_t received_before_ = 0;
};

}  // namespace

std::string HttpResponse::Header(absl::string_view name) const {
  for (const auto& [key, value] : headers) {
    if (key == name) return value;
  }
  return "";
}

std::vector<std::string> HttpResponse::AllHeaders(absl::string_view name) const {
  std::vector<std::string> values;
  for (const auto& [key, value] : headers) {
    if (key == name) values.push_back(value);
  }
  return values;
}

absl::Status StringSink::Begin(const HttpResponse& response) {
  body_.clear();
  uint64_t length = 0;
  if (absl::SimpleAtoi(response.Header("content-length"), &length) && length > limit_) {
    return absl::FailedPreconditionError(
        absl::StrCat("the answer has ", length, " bytes; the limit is ", limit_));
  }
  return absl::OkStatus();
}

absl::Status StringSink::Append(absl::string_view data) {
  if (data.size() > limit_ - body_.size()) {
    return absl::FailedPreconditionError(
        absl::StrCat("the answer is longer than the limit of ", limit_, " bytes"));
  }
  body_.append(data.data(), data.size());
  return absl::OkStatus();
}

absl::Status Permanent(absl::Status status) {
  status.SetPayload(kPermanentPayload, absl::Cord());
  return status;
}

bool IsPermanent(const absl::Status& status) {
  return status.GetPayload(kPermanentPayload).has_value();
}

struct HttpClient::Connection {
  CURLM* multi = curl_multi_init();
  CURL* easy = curl_easy_init();
  char error[CURL_ERROR_SIZE] = {};

  ~Connection() {
    curl_easy_cleanup(easy);
    curl_multi_cleanup(multi);
  }

  void Prepare(const HttpRequest& request, const HttpClientOptions& options, curl_slist* headers,
               Transfer* transfer);
  absl::Status Run(const HttpRequest& request, const HttpClientOptions& options,
                   const Transfer& transfer, const CancelToken& cancel);
};

// Idle connections; each holds libcurl's own cache of sockets.
class HttpClient::Pool {
 public:
  std::unique_ptr<Connection> Take() {
    {
      sys::MutexLock lock(&mutex_);
      if (!idle_.empty()) {
        std::unique_ptr<Connection> connection = std::move(idle_.back());
        idle_.pop_back();
        return connection;
      }
    }
    return std::make_unique<Connection>();
  }
  void Give(std::unique_ptr<Connection> connection) {
    sys::MutexLock lock(&mutex_);
    idle_.push_back(std::move(connection));
  }

 private:
  sys::Mutex mutex_;
  std::vector<std::unique_ptr<Connection>> idle_ ABSL_GUARDED_BY(mutex_);
};

HttpClient::HttpClient(HttpClientOptions options)
    : options_(std::move(options)), pool_(std::make_unique<Pool>()) {
  curl_global_init(CURL_GLOBAL_DEFAULT);  // counted and thread-safe
}

HttpClient::~HttpClient() = default;

void HttpClient::Connection::Prepare(const HttpRequest& request, const HttpClientOptions& options,
                                     curl_slist* headers, Transfer* transfer) {
  curl_easy_reset(easy);
  error[0] = '\0';
  curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, error);
  curl_easy_setopt(easy, CURLOPT_URL, request.url.ToString().c_str());
  curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https");
  curl_easy_setopt(easy, CURLOPT_FOLLOWLOCATION, 0L);
  curl_easy_setopt(easy, CURLOPT_NETRC, static_cast<long>(CURL_NETRC_IGNORED));
  curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
  curl_easy_setopt(easy, CURLOPT_HTTPHEADER, headers);
  curl_easy_setopt(easy, CURLOPT_USERAGENT, "davit");
  curl_easy_setopt(easy, CURLOPT_HTTP_CONTENT_DECODING, 0L);
  curl_easy_setopt(easy, CURLOPT_HTTP_VERSION, static_cast<long>(CURL_HTTP_VERSION_2TLS));
  curl_easy_setopt(easy, CURLOPT_BUFFERSIZE, 512L * 1024);
  curl_easy_setopt(easy, CURLOPT_TCP_KEEPALIVE, 1L);
  curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS,
                   static_cast<long>(absl::ToInt64Milliseconds(options.connect_timeout)));
  // Set even when empty, or libcurl looks into the environment itself.
  curl_easy_setopt(easy, CURLOPT_PROXY, options.proxy.ProxyFor(request.url).c_str());
  curl_easy_setopt(easy, CURLOPT_NOPROXY, "");
  curl_easy_setopt(easy, CURLOPT_SUPPRESS_CONNECT_HEADERS, 1L);
  curl_easy_setopt(easy, CURLOPT_SSLVERSION, static_cast<long>(CURL_SSLVERSION_TLSv1_2));
  if (!request.tls.ca_file.empty()) {
    curl_easy_setopt(easy, CURLOPT_CAINFO, request.tls.ca_file.c_str());
    if (!request.tls.system_cas_too) curl_easy_setopt(easy, CURLOPT_CAPATH, nullptr);
  }
  if (request.tls.skip_verify) {
    curl_easy_setopt(easy, CURLOPT_SSL_VERIFYPEER, 0L);
    curl_easy_setopt(easy, CURLOPT_SSL_VERIFYHOST, 0L);
  }
  if (request.form.has_value()) {
    curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE_LARGE,
                     static_cast<curl_off_t>(request.form->size()));
    curl_easy_setopt(easy, CURLOPT_POSTFIELDS, request.form->data());
  }
  curl_easy_setopt(easy, CURLOPT_OPENSOCKETFUNCTION, &OnOpenSocket);
  curl_easy_setopt(easy, CURLOPT_OPENSOCKETDATA, transfer);
  curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, &OnBody);
  curl_easy_setopt(easy, CURLOPT_WRITEDATA, transfer);
  curl_easy_setopt(easy, CURLOPT_HEADERFUNCTION, &OnHeader);
  curl_easy_setopt(easy, CURLOPT_HEADERDATA, transfer);
}

absl::Status HttpClient::Connection::Run(const HttpRequest& request,
                                         const HttpClientOptions& options, const Transfer& transfer,
                                         const CancelToken& cancel) {
  if (multi == nullptr || easy == nullptr) {
    return absl::ResourceExhaustedError("libcurl cannot be set up");
  }
  const CURLMcode added = curl_multi_add_handle(multi, easy);
  if (added != CURLM_OK) return absl::InternalError(curl_multi_strerror(added));
  const auto remove = absl::MakeCleanup([this] { curl_multi_remove_handle(multi, easy); });

  StallWatch watch(options.stall_timeout, options.minimum_rate);
  for (int running = 1;;) {
    if (cancel.cancelled()) return absl::CancelledError("the pull was cancelled");
    const CURLMcode code = curl_multi_perform(multi, &running);
    if (code != CURLM_OK) return absl::InternalError(curl_multi_strerror(code));
    if (running == 0) break;
    const absl::Time before = absl::Now();
    curl_multi_poll(multi, nullptr, 0, static_cast<int>(kPollInterval / absl::Milliseconds(1)),
                    nullptr);
    if (watch.Stalled(absl::Now() - before, transfer.received)) {
      return absl::UnavailableError(absl::StrCat(request.url.Origin(), ": less than ",
                                                 options.minimum_rate, " bytes a second for ",
                                                 absl::FormatDuration(options.stall_timeout)));
    }
  }
  int left = 0;
  for (const CURLMsg* message; (message = curl_multi_info_read(multi, &left)) != nullptr;) {
    if (message->msg != CURLMSG_DONE || message->easy_handle != easy) continue;
    if (message->data.result == CURLE_OK || transfer.enough) return absl::OkStatus();
    if (IsShortage(transfer.socket_error)) {
      return sys::ErrnoStatus(transfer.socket_error,
                              absl::StrCat(request.url.Origin(), ": make a socket"));
    }
    return TransportError(message->data.result, error, request.url);
  }
  return absl::InternalError("libcurl lost a transfer");
}

absl::StatusOr<HttpResponse> HttpClient::Perform(const HttpRequest& request, BodySink* sink,
                                                 const CancelToken& cancel) {
  Transfer transfer{sink};
  curl_slist* headers = nullptr;
  for (const std::string& header : request.headers) {
    // A line break would be a header of somebody else's choice.
    if (header.find_first_of("\r\n") != std::string::npos) continue;
    headers = curl_slist_append(headers, header.c_str());
  }
  headers = curl_slist_append(headers, "Expect:");
  const auto free_headers = absl::MakeCleanup([headers] { curl_slist_free_all(headers); });

  std::unique_ptr<Connection> connection = pool_->Take();
  connection->Prepare(request, options_, headers, &transfer);
  const absl::Status status = connection->Run(request, options_, transfer, cancel);
  pool_->Give(std::move(connection));
  if (!transfer.failure.ok()) return transfer.failure;
  if (!status.ok()) return status;
  if (!transfer.Begin()) return transfer.failure;  // an answer without a body
  return std::move(transfer.response);
}

}  // namespace davit::images

#include "images/testing/fake_registry.h"

#include <arpa/inet.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdlib>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"

namespace davit::images::testing {
namespace {

void Require(bool ok) {
  if (!ok) std::abort();
}

bool SendAll(int fd, absl::string_view data) {
  while (!data.empty()) {
    const ssize_t n = send(fd, data.data(), data.size(), MSG_NOSIGNAL);
    if (n <= 0) return false;
    data.remove_prefix(static_cast<size_t>(n));
  }
  return true;
}

// Reads one request; false at the end of the connection.
bool ReadRequest(int fd, std::string* buffered, FakeRequest* request) {
  size_t end;
  char chunk[16384];
  while ((end = buffered->find("\r\n\r\n")) == std::string::npos) {
    const ssize_t n = recv(fd, chunk, sizeof(chunk), 0);
    if (n <= 0) return false;
    buffered->append(chunk, static_cast<size_t>(n));
  }
  const std::vector<std::string> lines = absl::StrSplit(buffered->substr(0, end), "\r\n");
  buffered->erase(0, end + 4);
  const std::vector<std::string> first = absl::StrSplit(lines[0], ' ');
  if (first.size() != 3) return false;
  request->method = first[0];
  const std::pair<std::string, std::string> target =
      absl::StrSplit(first[1], absl::MaxSplits('?', 1));
  request->path = target.first;
  request->query = target.second;
  for (size_t i = 1; i < lines.size(); ++i) {
    const std::pair<std::string, std::string> header =
        absl::StrSplit(lines[i], absl::MaxSplits(':', 1));
    request->headers[absl::AsciiStrToLower(header.first)] =
        std::string(absl::StripAsciiWhitespace(header.second));
  }
  size_t length = 0;
  if (!absl::SimpleAtoi(request->Header("content-length"), &length)) length = 0;
  while (buffered->size() < length) {
    const ssize_t n = recv(fd, chunk, sizeof(chunk), 0);
    if (n <= 0) return false;
    buffered->append(chunk, static_cast<size_t>(n));
  }
  request->body = buffered->substr(0, length);
  buffered->erase(0, length);
  return true;
}

}  // namespace

std::string FakeRequest::Header(const std::string& name) const {
  const auto it = headers.find(name);
  return it == headers.end() ? "" : it->second;
}

FakeRegistry::FakeRegistry()
    : listener_(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)), stop_(eventfd(0, EFD_CLOEXEC)) {
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  Require(bind(listener_.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0);
  Require(listen(listener_.get(), 64) == 0);
  socklen_t size = sizeof(address);
  Require(getsockname(listener_.get(), reinterpret_cast<sockaddr*>(&address), &size) == 0);
  port_ = ntohs(address.sin_port);
  acceptor_ = std::thread([this] { Accept(); });
}

FakeRegistry::~FakeRegistry() {
  const uint64_t one = 1;
  Require(write(stop_.get(), &one, sizeof(one)) == sizeof(one));
  shutdown(listener_.get(), SHUT_RDWR);
  acceptor_.join();
  std::vector<std::thread> threads;
  {
    sys::MutexLock lock(&mutex_);
    stopping_ = true;
    for (const int connection : connections_) shutdown(connection, SHUT_RDWR);
    threads.swap(threads_);
  }
  for (std::thread& thread : threads) thread.join();
}

std::string FakeRegistry::host() const { return absl::StrCat("127.0.0.1:", port_); }

Digest FakeRegistry::PutBlob(std::string bytes) {
  Digest digest = Hasher::Hash(Digest::Algorithm::kSha256, bytes);
  sys::MutexLock lock(&mutex_);
  content_[absl::StrCat("/blobs/", digest.ToString())] = {"application/octet-stream",
                                                          std::move(bytes)};
  return digest;
}

Digest FakeRegistry::PutManifest(const std::string& repository, const std::string& tag,
                                 const std::string& media_type, std::string bytes) {
  Digest digest = Hasher::Hash(Digest::Algorithm::kSha256, bytes);
  sys::MutexLock lock(&mutex_);
  const Content content{media_type, std::move(bytes)};
  const std::string base = absl::StrCat("/v2/", repository, "/manifests/");
  content_[absl::StrCat(base, digest.ToString())] = content;
  if (!tag.empty()) content_[absl::StrCat(base, tag)] = content;
  return digest;
}

void FakeRegistry::SetHook(Hook hook) {
  sys::MutexLock lock(&mutex_);
  hook_ = std::move(hook);
}

std::vector<FakeRequest> FakeRegistry::requests() const {
  sys::MutexLock lock(&mutex_);
  return requests_;
}

int FakeRegistry::CountRequests(absl::string_view path_part) const {
  sys::MutexLock lock(&mutex_);
  int count = 0;
  for (const FakeRequest& request : requests_) count += absl::StrContains(request.path, path_part);
  return count;
}

void FakeRegistry::Accept() {
  for (;;) {
    const int connection = accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC);
    if (connection < 0) return;
    sys::MutexLock lock(&mutex_);
    connections_.insert(connection);
    threads_.emplace_back([this, connection] { Serve(connection); });
  }
}

void FakeRegistry::Serve(int connection) {
  std::string buffered;
  for (FakeRequest request; ReadRequest(connection, &buffered, &request); request = {}) {
    const FakeReply reply = Answer(request);
    Send(connection, reply, request.method == "HEAD");
    if (reply.send_only.has_value()) break;
  }
  sys::MutexLock lock(&mutex_);
  connections_.erase(connection);
  close(connection);
}

FakeReply FakeRegistry::Answer(const FakeRequest& request) {
  Hook hook;
  {
    sys::MutexLock lock(&mutex_);
    requests_.push_back(request);
    hook = hook_;
  }
  if (hook) {
    if (auto reply = hook(request); reply.has_value()) return *std::move(reply);
  }
  return Stored(request);
}

FakeReply FakeRegistry::Stored(const FakeRequest& request) {
  FakeReply reply;
  sys::MutexLock lock(&mutex_);
  const size_t blobs = request.path.find("/blobs/");
  const auto it =
      content_.find(blobs == std::string::npos ? request.path : request.path.substr(blobs));
  if (it == content_.end()) {
    reply.status = 404;
    reply.body = R"({"errors":[{"code":"NAME_UNKNOWN","message":"not here"}]})";
    return reply;
  }
  reply.headers.emplace_back("Content-Type", it->second.media_type);
  reply.body = it->second.bytes;
  std::string range = request.Header("range");
  size_t start = 0;
  if (absl::StartsWith(range, "bytes=") &&
      absl::SimpleAtoi(range.substr(6, range.size() - 7), &start) && start < reply.body.size()) {
    reply.status = 206;
    reply.headers.emplace_back(
        "Content-Range",
        absl::StrCat("bytes ", start, "-", reply.body.size() - 1, "/", reply.body.size()));
    reply.body.erase(0, start);
  }
  return reply;
}

void FakeRegistry::Send(int connection, const FakeReply& reply, bool head) {
  std::string out = absl::StrCat("HTTP/1.1 ", reply.status, " Status\r\n");
  for (const auto& [name, value] : reply.headers) absl::StrAppend(&out, name, ": ", value, "\r\n");
  if (reply.chunked) {
    absl::StrAppend(&out, "Transfer-Encoding: chunked\r\n");
  } else {
    absl::StrAppend(&out, "Content-Length: ", reply.announced_length.value_or(reply.body.size()),
                    "\r\n");
  }
  absl::StrAppend(&out, "\r\n");
  if (!SendAll(connection, out) || head) return;
  absl::string_view rest =
      absl::string_view(reply.body).substr(0, reply.send_only.value_or(reply.body.size()));
  while (!rest.empty()) {
    const absl::string_view piece = rest.substr(0, reply.piece);
    rest.remove_prefix(piece.size());
    const bool sent =
        reply.chunked
            ? SendAll(connection, absl::StrCat(absl::Hex(piece.size()), "\r\n", piece, "\r\n"))
            : SendAll(connection, piece);
    if (!sent) return;
    if (reply.pause > absl::ZeroDuration()) absl::SleepFor(reply.pause);
  }
  if (reply.then_stall) {
    // Until the client gives up or the test ends.
    pollfd fds[2] = {{stop_.get(), POLLIN, 0}, {connection, POLLRDHUP, 0}};
    poll(fds, 2, -1);
    return;
  }
  if (reply.chunked && !reply.send_only.has_value()) SendAll(connection, "0\r\n\r\n");
}

}  // namespace davit::images::testing

#ifndef DAVIT_IMAGES_TESTING_FAKE_REGISTRY_H_
#define DAVIT_IMAGES_TESTING_FAKE_REGISTRY_H_

#include <functional>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "images/digest.h"
#include "runtime/sys/mutex.h"
#include "runtime/sys/unique_fd.h"

namespace davit::images::testing {

struct FakeRequest {
  std::string method;
  std::string path;
  std::string query;
  std::map<std::string, std::string> headers;  // lowercase names
  std::string body;

  std::string Header(const std::string& name) const;
};

// An answer, and the ways in which it may go wrong.
struct FakeReply {
  int status = 200;
  std::vector<std::pair<std::string, std::string>> headers;
  std::string body;
  std::optional<size_t> announced_length;  // Content-Length that lies; chunked if `chunked`
  bool chunked = false;
  std::optional<size_t> send_only;  // hang up after so much of the body
  bool then_stall = false;          // with send_only: say nothing more instead of hanging up
  size_t piece = 1 << 20;           // bytes a write
  absl::Duration pause;             // after each
};

// A registry on loopback that does what a test tells it to. It serves what was put into it, with
// ranges; a hook sees each request first and may answer it instead. Thread-safe.
class FakeRegistry {
 public:
  using Hook = std::function<std::optional<FakeReply>(const FakeRequest&)>;

  FakeRegistry();
  ~FakeRegistry();

  std::string host() const;  // "127.0.0.1:<port>"
  std::string url() const { return "http://" + host(); }

  Digest PutBlob(std::string bytes);
  // Under its digest, and under `tag` unless that is empty.
  Digest PutManifest(const std::string& repository, const std::string& tag,
                     const std::string& media_type, std::string bytes);
  void SetHook(Hook hook);

  std::vector<FakeRequest> requests() const;
  int CountRequests(absl::string_view path_part) const;

 private:
  struct Content {
    std::string media_type;
    std::string bytes;
  };

  void Accept();
  void Serve(int connection);
  FakeReply Answer(const FakeRequest& request);
  FakeReply Stored(const FakeRequest& request);
  void Send(int connection, const FakeReply& reply, bool head);

  sys::UniqueFd listener_;
  sys::UniqueFd stop_;  // an eventfd
  int port_ = 0;
  mutable sys::Mutex mutex_;
  Hook hook_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, Content> content_ ABSL_GUARDED_BY(mutex_);  // by what ends the path
  std::vector<FakeRequest> requests_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::thread> threads_ ABSL_GUARDED_BY(mutex_);
  std::set<int> connections_ ABSL_GUARDED_BY(mutex_);
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread acceptor_;
};

}  // namespace davit::images::testing

#endif  // DAVIT_IMAGES_TESTING_FAKE_REGISTRY_H_

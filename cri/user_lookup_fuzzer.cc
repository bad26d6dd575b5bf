// Any bytes as a request and the image's /etc/passwd and /etc/group: lines "user", "name" and
// "number" first, an empty line, passwd, a line of a NUL, group.

#include <algorithm>

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "cri/user_lookup.h"
#include "runtime/sys/fuzzing/fuzzer.h"

namespace davit::fuzzing {

std::vector<std::string> Seeds() {
  const std::string files =
      "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000::/home/app:\n1000:x:0:0::/:\nbad\n::\n"
      "big:x:4294967296:99999999999:::\n" +
      std::string("\0\n", 2) + "root:x:0:\nusers:x:100:app,root,\nbad:\nwheel:x:10:app\n";
  return {"app\n\n\n" + files,        "app:users\n\n\n" + files, "1000:10\n\n\n" + files,
          "\n1000\nx\n" + files,      "\nroot\n\n" + files,      "app\n\n7\n" + files,
          "4294967295\n\n\n" + files, ":users\n\n\n" + files};
}

}  // namespace davit::fuzzing

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  namespace cri = davit::cri;
  absl::string_view rest(reinterpret_cast<const char*>(data), size);
  const auto line = [&rest] {
    const size_t end = std::min(rest.find('\n'), rest.size());
    const std::string text(rest.substr(0, end));
    rest.remove_prefix(std::min(rest.size(), end + 1));
    return text;
  };
  cri::UserRequest request;
  request.image_user = line();
  request.run_as_username = line();
  int64_t number = 0;
  if (absl::SimpleAtoi(line(), &number)) {
    if (number % 2 == 0) request.run_as_user = number;
    if (number % 3 == 0) request.run_as_group = number / 3;
    if (number % 5 == 0) request.supplemental_groups = {number / 5, number / 7};
    request.strict_groups = number % 7 == 0;
  }
  const size_t split = std::min(rest.find(absl::string_view("\0\n", 2)), rest.size());
  const absl::string_view passwd = rest.substr(0, split);
  rest.remove_prefix(std::min(rest.size(), split + 2));
  const auto user = cri::ResolveUser(request, passwd, rest);
  if (!user.ok()) return 0;
  DAVIT_FUZZ_CHECK(user->uid <= INT32_MAX && user->gid <= INT32_MAX && !user->home.empty());
  DAVIT_FUZZ_CHECK(!user->groups.empty() && user->groups[0] == user->gid);
  auto groups = user->groups;
  std::sort(groups.begin(), groups.end());
  DAVIT_FUZZ_CHECK(std::adjacent_find(groups.begin(), groups.end()) == groups.end());
  DAVIT_FUZZ_CHECK(groups.back() <= INT32_MAX);
  if (request.run_as_user.has_value() && request.run_as_username.empty()) {
    DAVIT_FUZZ_CHECK(user->uid == *request.run_as_user);
  }
  return 0;
}

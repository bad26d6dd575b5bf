#ifndef DAVIT_IMAGES_REGISTRY_CHALLENGE_H_
#define DAVIT_IMAGES_REGISTRY_CHALLENGE_H_

#include <map>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace davit::images {

// One challenge of a WWW-Authenticate header (RFC 9110, 11.6.1).
struct Challenge {
  std::string scheme;                         // lowercase: "bearer", "basic"
  std::map<std::string, std::string> params;  // lowercase names
};

// Parses a header value, which may hold several challenges; what is malformed ends the list.
std::vector<Challenge> ParseChallenges(absl::string_view header);

}  // namespace davit::images

#endif  // DAVIT_IMAGES_REGISTRY_CHALLENGE_H_

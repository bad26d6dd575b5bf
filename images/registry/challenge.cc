#include "images/registry/challenge.h"

#include <utility>

#include "absl/strings/ascii.h"

namespace davit::images {
namespace {

bool IsTokenChar(char c) {
  return absl::ascii_isalnum(c) ||
         absl::string_view("!#$%&'*+-.^_`|~").find(c) != absl::string_view::npos;
}

class Scanner {
 public:
  explicit Scanner(absl::string_view text) : rest_(text) {}

  bool Done() const { return rest_.empty(); }
  char Peek() const { return rest_.empty() ? '\0' : rest_[0]; }

  void SkipSpace() {
    while (!rest_.empty() && (rest_[0] == ' ' || rest_[0] == '\t')) rest_.remove_prefix(1);
  }
  void SkipSpaceAndCommas() {
    while (!rest_.empty() && (rest_[0] == ' ' || rest_[0] == '\t' || rest_[0] == ',')) {
      rest_.remove_prefix(1);
    }
  }
  bool Take(char c) {
    if (Peek() != c) return false;
    rest_.remove_prefix(1);
    return true;
  }
  std::string Token() {
    size_t n = 0;
    while (n < rest_.size() && IsTokenChar(rest_[n])) ++n;
    std::string token(rest_.substr(0, n));
    rest_.remove_prefix(n);
    return token;
  }
  // A quoted string or a bare value. False if the quote is never closed.
  bool Value(std::string* value) {
    if (!Take('"')) {
      size_t n = 0;
      while (n < rest_.size() && rest_[n] != ',' && rest_[n] != ' ' && rest_[n] != '\t') ++n;
      *value = std::string(rest_.substr(0, n));
      rest_.remove_prefix(n);
      return true;
    }
    while (!rest_.empty()) {
      const char c = rest_[0];
      rest_.remove_prefix(1);
      if (c == '"') return true;
      if (c == '\\' && !rest_.empty()) {
        value->push_back(rest_[0]);
        rest_.remove_prefix(1);
      } else {
        value->push_back(c);
      }
    }
    return false;
  }

 private:
  absl::string_view rest_;
};

}  // namespace

std::vector<Challenge> ParseChallenges(absl::string_view header) {
  std::vector<Challenge> challenges;
  Scanner scanner(header);
  for (scanner.SkipSpaceAndCommas(); !scanner.Done(); scanner.SkipSpaceAndCommas()) {
    std::string name = absl::AsciiStrToLower(scanner.Token());
    if (name.empty()) break;
    scanner.SkipSpace();
    // A token followed by "=" is a parameter of the current challenge, else a new scheme.
    if (scanner.Take('=')) {
      scanner.SkipSpace();
      std::string value;
      if (challenges.empty() || !scanner.Value(&value)) break;
      challenges.back().params.emplace(std::move(name), std::move(value));
    } else {
      challenges.push_back({std::move(name), {}});
    }
  }
  return challenges;
}

}  // namespace davit::images

#ifndef DAVIT_SANDBOX_IDS_H_
#define DAVIT_SANDBOX_IDS_H_

#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

// The names that pods and containers are known by: 64 lower-case hex digits, chosen at random.
namespace davit::sandbox {

// 256 bits from getrandom (man 2 getrandom): two ids never meet.
std::string NewId();

// Whether `text` has the form of an id. What is not one is never used as a path component.
bool IsId(absl::string_view text);

// Objects by id, found by the whole id or by any unique beginning of one. `kind` ("pod",
// "container") is for the messages. Not thread-safe.
template <typename T>
class IdMap {
 public:
  explicit IdMap(absl::string_view kind) : kind_(kind) {}

  void Insert(const std::string& id, T value) { map_.insert_or_assign(id, std::move(value)); }
  void Erase(const std::string& id) { map_.erase(id); }
  size_t size() const { return map_.size(); }

  // By the whole id only.
  std::optional<T> Get(absl::string_view id) const {
    const auto it = map_.find(id);
    if (it == map_.end()) return std::nullopt;
    return it->second;
  }

  // By the id or a unique prefix. NotFound; InvalidArgument for an empty or ambiguous one.
  absl::StatusOr<T> Resolve(absl::string_view prefix) const {
    if (prefix.empty()) return absl::InvalidArgumentError(absl::StrCat("empty ", kind_, " id"));
    auto it = map_.lower_bound(prefix);
    if (it == map_.end() || !absl::StartsWith(it->first, prefix)) {
      return absl::NotFoundError(absl::StrCat(kind_, " \"", prefix, "\" does not exist"));
    }
    if (it->first.size() != prefix.size()) {
      const auto next = std::next(it);
      if (next != map_.end() && absl::StartsWith(next->first, prefix)) {
        return absl::InvalidArgumentError(absl::StrCat(kind_, " id \"", prefix,
                                                       "\" is ambiguous: it begins ", it->first,
                                                       " and ", next->first));
      }
    }
    return it->second;
  }

  std::vector<T> Values() const {
    std::vector<T> values;
    values.reserve(map_.size());
    for (const auto& [id, value] : map_) values.push_back(value);
    return values;
  }

 private:
  struct Less {
    using is_transparent = void;
    bool operator()(absl::string_view a, absl::string_view b) const { return a < b; }
  };
  const std::string kind_;
  std::map<std::string, T, Less> map_;
};

}  // namespace davit::sandbox

#endif  // DAVIT_SANDBOX_IDS_H_

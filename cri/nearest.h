#ifndef DAVIT_CRI_NEAREST_H_
#define DAVIT_CRI_NEAREST_H_

#include <span>
#include <string>

#include "absl/strings/string_view.h"

namespace davit::cri {

// The candidate with the smallest edit distance to `word` (insertions, deletions, substitutions and
// swaps of neighbours, each 1; case does not count); the first of several. "" without candidates.
std::string Nearest(absl::string_view word, std::span<const std::string> candidates);

}  // namespace davit::cri

#endif  // DAVIT_CRI_NEAREST_H_

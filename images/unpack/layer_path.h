#ifndef DAVIT_IMAGES_UNPACK_LAYER_PATH_H_
#define DAVIT_IMAGES_UNPACK_LAYER_PATH_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

// Names inside a layer. A *clean* path is relative to the layer's top directory, has no empty, "."
// or ".." component, no NUL byte and no slash at either end; the top directory itself is "". Pure.
namespace davit::images::unpack {

inline constexpr size_t kMaxLayerPath = 4095;  // PATH_MAX without its NUL
inline constexpr size_t kMaxLayerName = 255;   // NAME_MAX

// Cleans a name from a tar entry by its letters alone: leading slashes go, "a/../b" is "b". A name
// that climbs above the top ("../x", "a/../../x") is FailedPrecondition, and so is one that is too
// long, too deep or holds a NUL.
absl::StatusOr<std::string> CleanLayerPath(absl::string_view name, uint32_t max_depth);

// Whether `path` is clean already; for what comes from an untrusted process. InvalidArgument.
absl::Status CheckCleanPath(absl::string_view path, uint32_t max_depth);

// "a/b/c" -> "a/b" and "c"; "c" -> "" and "c".
absl::string_view ParentOf(absl::string_view path);
absl::string_view NameOf(absl::string_view path);
std::string JoinPath(absl::string_view parent, absl::string_view name);

// A layer's names for "gone" (image-spec layer.md, "Whiteouts").
inline constexpr absl::string_view kWhiteoutPrefix = ".wh.";
inline constexpr absl::string_view kWhiteoutMetaPrefix = ".wh..wh.";
inline constexpr absl::string_view kOpaqueMark = ".wh..wh..opq";

}  // namespace davit::images::unpack

#endif  // DAVIT_IMAGES_UNPACK_LAYER_PATH_H_

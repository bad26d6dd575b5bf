#ifndef DAVIT_IMAGES_REGISTRY_REGISTRY_ERROR_H_
#define DAVIT_IMAGES_REGISTRY_REGISTRY_ERROR_H_

#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "images/registry/http.h"

namespace davit::images {

// What an error answer says for itself (distribution-spec, "Error Codes"): ": CODE: message", made
// harmless to print and short, or "".
std::string RegistryErrorText(absl::string_view error_body);

// The status for an answer that is not 2xx: 401 Unauthenticated, 403 PermissionDenied, 404
// NotFound, what is worth another try Unavailable, the rest FailedPrecondition. `what` says who
// answered or what was asked for.
absl::Status StatusFromResponse(const HttpResponse& response, absl::string_view what);

}  // namespace davit::images

#endif  // DAVIT_IMAGES_REGISTRY_REGISTRY_ERROR_H_

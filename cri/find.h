#ifndef DAVIT_CRI_FIND_H_
#define DAVIT_CRI_FIND_H_

#include <memory>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "cri/call.h"
#include "sandbox/manager.h"

namespace davit::cri {

// By full id or unique prefix. InvalidArgument for an empty or ambiguous one, NotFound.
absl::StatusOr<std::shared_ptr<const sandbox::PodView>> FindPod(const sandbox::Manager& manager,
                                                                const std::string& id);
absl::StatusOr<std::shared_ptr<const sandbox::ContainerView>> FindContainer(
    const sandbox::Manager& manager, const std::string& id);

// The shape of stop and remove, which succeed for what is not there: answers an empty Response
// then, else calls `act` with the full id, and answers when that is done.
template <typename Response, typename View, typename Act>
void WithKnown(const absl::StatusOr<std::shared_ptr<const View>>& view, Done<Response> done,
               Act act) {
  if (absl::IsNotFound(view.status())) return done(Response());
  if (!view.ok()) return done(view.status());
  act((*view)->id, [done = std::move(done)](absl::Status status) {
    if (status.ok() || absl::IsNotFound(status)) {
      done(Response());
    } else {
      done(std::move(status));
    }
  });
}
template <typename Response, typename Act>
void WithKnownPod(const sandbox::Manager& manager, const std::string& id, Done<Response> done,
                  Act act) {
  WithKnown(FindPod(manager, id), std::move(done), std::move(act));
}
template <typename Response, typename Act>
void WithKnownContainer(const sandbox::Manager& manager, const std::string& id, Done<Response> done,
                        Act act) {
  WithKnown(FindContainer(manager, id), std::move(done), std::move(act));
}

}  // namespace davit::cri

#endif  // DAVIT_CRI_FIND_H_

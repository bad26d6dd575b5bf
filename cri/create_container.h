#ifndef DAVIT_CRI_CREATE_CONTAINER_H_
#define DAVIT_CRI_CREATE_CONTAINER_H_

#include <string>

#include "absl/status/statusor.h"
#include "cri/node.h"
#include "images/image_service.h"
#include "sandbox/manager.h"

namespace runtime::v1 {
class CreateContainerRequest;
}

namespace davit::cri {

// CreateContainer: validate, look up pod and image, find the user in the image, translate, create.
// Returns the new id. Thread-safe.
absl::StatusOr<std::string> CreateContainer(sandbox::Manager* manager, images::ImageService* images,
                                            const Node& node,
                                            const ::runtime::v1::CreateContainerRequest& request);

}  // namespace davit::cri

#endif  // DAVIT_CRI_CREATE_CONTAINER_H_

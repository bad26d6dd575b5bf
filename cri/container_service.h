#ifndef DAVIT_CRI_CONTAINER_SERVICE_H_
#define DAVIT_CRI_CONTAINER_SERVICE_H_

#include <vector>

#include "cri/call.h"
#include "cri/node.h"
#include "images/image_service.h"
#include "sandbox/manager.h"

namespace davit::cri {

// The container RPCs of RuntimeService. `manager` and `images` must outlive the methods.
// Thread-safe.
std::vector<Method> ContainerMethods(sandbox::Manager* manager, images::ImageService* images,
                                     Node node);

}  // namespace davit::cri

#endif  // DAVIT_CRI_CONTAINER_SERVICE_H_

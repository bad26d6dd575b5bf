#ifndef DAVIT_CRI_POD_SERVICE_H_
#define DAVIT_CRI_POD_SERVICE_H_

#include <vector>

#include "cri/call.h"
#include "cri/translate_pod.h"
#include "sandbox/manager.h"

namespace davit::cri {

// The pod sandbox RPCs of RuntimeService. `manager` must outlive the methods. Thread-safe.
std::vector<Method> PodMethods(sandbox::Manager* manager, PodOptions options);

}  // namespace davit::cri

#endif  // DAVIT_CRI_POD_SERVICE_H_

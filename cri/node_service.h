#ifndef DAVIT_CRI_NODE_SERVICE_H_
#define DAVIT_CRI_NODE_SERVICE_H_

#include <string>
#include <vector>

#include "cri/call.h"
#include "cri/node.h"
#include "sandbox/manager.h"

namespace davit::cri {

// The part of RuntimeService that is about the node: Version, Status, RuntimeConfig,
// UpdateRuntimeConfig. `manager` must outlive the methods. Thread-safe.
struct NodeService {
  sandbox::Manager* manager = nullptr;
  Node node;
  std::string
      config_json;  // what `crictl info` shows as "config"; its stateDir is looked at by tools
};

std::vector<Method> NodeMethods(NodeService service);

}  // namespace davit::cri

#endif  // DAVIT_CRI_NODE_SERVICE_H_

#ifndef DAVIT_SANDBOX_NETNS_BINDING_H_
#define DAVIT_SANDBOX_NETNS_BINDING_H_

#include <string>

#include "absl/status/status.h"

namespace davit::sandbox {

// Unmounts and removes the file at which a pod's network namespace is bound. Success if there is
// none, and for "". The namespace itself goes with its last member.
absl::Status RemoveNetnsBinding(const std::string& path);

}  // namespace davit::sandbox

#endif  // DAVIT_SANDBOX_NETNS_BINDING_H_

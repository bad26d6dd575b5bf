#ifndef DAVIT_SANDBOX_PROTOCOL_VERSION_H_
#define DAVIT_SANDBOX_PROTOCOL_VERSION_H_

#include <cstdint>

// What this build's davitd and davit-pod speak (proto/supervisor.proto lists the versions).
namespace davit::sandbox {

inline constexpr uint32_t kProtocolVersion = 2;
inline constexpr uint32_t kOldestProtocolVersion = 1;

}  // namespace davit::sandbox

#endif  // DAVIT_SANDBOX_PROTOCOL_VERSION_H_

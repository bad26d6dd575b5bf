#ifndef DAVIT_IMAGES_UNPACK_CHANNEL_H_
#define DAVIT_IMAGES_UNPACK_CHANNEL_H_

#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "google/protobuf/message_lite.h"

// The messages of proto/unpack.proto over its SOCK_SEQPACKET socket, for both ends.
namespace davit::images::unpack {

inline constexpr uint32_t kProtocolVersion = 1;
inline constexpr size_t kMaxMessage = 64 * 1024;

// The helper's descriptors.
inline constexpr int kSocketFd = 3;
inline constexpr int kRingFd = 4;
inline constexpr int kStagingFd = 5;

enum class Wait { kBlock, kNoWait };

// Sends one message. With kNoWait: Unavailable when the socket is full. OutOfRange when the peer is
// gone.
absl::Status SendMessage(int socket, const google::protobuf::MessageLite& message, Wait wait);

// Receives one message. False: nothing there (kNoWait only). OutOfRange when the peer is gone,
// InvalidArgument when it sent something that is no message, or too long a one.
absl::StatusOr<bool> ReceiveMessage(int socket, google::protobuf::MessageLite* message, Wait wait);

}  // namespace davit::images::unpack

#endif  // DAVIT_IMAGES_UNPACK_CHANNEL_H_

#ifndef DAVIT_CRI_REQUEST_SUMMARY_H_
#define DAVIT_CRI_REQUEST_SUMMARY_H_

#include <google/protobuf/message.h>

#include <string>

namespace davit::cri {

// What a request is about, for the log: the container or pod id, the image, or "namespace/name" of
// the pod to be made. Never anything that can hold a secret: no environment, command, annotation or
// credential.
std::string RequestSummary(const google::protobuf::Message& request);

}  // namespace davit::cri

#endif  // DAVIT_CRI_REQUEST_SUMMARY_H_

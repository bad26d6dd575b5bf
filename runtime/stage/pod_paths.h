#ifndef DAVIT_RUNTIME_STAGE_POD_PATHS_H_
#define DAVIT_RUNTIME_STAGE_POD_PATHS_H_

namespace davit::runtime::stage {

// Where the pod's /dev/shm is mounted inside the pod's mount namespace (namespaces.h).
inline constexpr char kPodShmPath[] = "/shm";

}  // namespace davit::runtime::stage

#endif  // DAVIT_RUNTIME_STAGE_POD_PATHS_H_

#ifndef DAVIT_CRI_VERBOSE_INFO_H_
#define DAVIT_CRI_VERBOSE_INFO_H_

#include <string>

#include "images/image.h"
#include "sandbox/manager.h"

// The JSON documents of verbose status answers, under the key "info". No contract of CRI, but tools
// read them: the keys are the union of those of containerd and CRI-O (pid, sandboxID, runtimeSpec,
// snapshotKey, config, cniResult, ...). Thread-safe.
namespace davit::cri {

std::string PodInfo(const sandbox::PodView& view);
// Reads the bundle's config.json for runtimeSpec; left out if it cannot be read.
std::string ContainerInfo(const sandbox::ContainerView& view);
std::string ImageInfo(const images::Image& image);

}  // namespace davit::cri

#endif  // DAVIT_CRI_VERBOSE_INFO_H_

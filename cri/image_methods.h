#ifndef DAVIT_CRI_IMAGE_METHODS_H_
#define DAVIT_CRI_IMAGE_METHODS_H_

#include <vector>

#include "cri/call.h"
#include "images/image_service.h"

namespace runtime::v1 {
class Image;
}

namespace davit::cri {

// The RPCs of ImageService. `images` must outlive the methods. Thread-safe.
std::vector<Method> ImageMethods(images::ImageService* images);

// An image of the store as CRI shows it.
void ToImage(const images::Image& image, ::runtime::v1::Image* out);

}  // namespace davit::cri

#endif  // DAVIT_CRI_IMAGE_METHODS_H_

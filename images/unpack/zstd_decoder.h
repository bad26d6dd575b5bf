#ifndef DAVIT_IMAGES_UNPACK_ZSTD_DECODER_H_
#define DAVIT_IMAGES_UNPACK_ZSTD_DECODER_H_

#include <memory>

#include "images/unpack/decompressor.h"

namespace davit::images::unpack {

// zstd (RFC 8878): frames one after another, skippable ones ignored, frame checksums verified,
// windows of at most 2^27 bytes.
std::unique_ptr<Decoder> NewZstdDecoder();

}  // namespace davit::images::unpack

#endif  // DAVIT_IMAGES_UNPACK_ZSTD_DECODER_H_

#ifndef DAVIT_IMAGES_UNPACK_GZIP_DECODER_H_
#define DAVIT_IMAGES_UNPACK_GZIP_DECODER_H_

#include <memory>

#include "images/unpack/decompressor.h"

namespace davit::images::unpack {

// gzip (RFC 1952) by ISA-L's inflate: members one after another, each member's header checksum (if
// it has one), CRC-32 and size verified. Anything behind a member that is not another is an error.
std::unique_ptr<Decoder> NewGzipDecoder();

}  // namespace davit::images::unpack

#endif  // DAVIT_IMAGES_UNPACK_GZIP_DECODER_H_

#include "images/unpack/testing/tar_builder.h"

#include <zlib.h>
#include <zstd.h>

#include <cstdio>
#include <cstring>

#include "absl/strings/str_cat.h"

namespace davit::images::unpack::testing {
namespace {

constexpr size_t kBlock = 512;

void PutText(std::string* block, size_t at, size_t size, absl::string_view text) {
  block->replace(at, std::min(size, text.size()), text.data(), std::min(size, text.size()));
}

void PutNumber(std::string* block, size_t at, size_t size, int64_t value) {
  const int64_t limit = int64_t{1} << (3 * (size - 1));
  if (value >= 0 && (size > 20 || value < limit)) {
    char text[32];
    snprintf(text, sizeof text, "%0*llo", static_cast<int>(size - 1),
             static_cast<unsigned long long>(value));
    PutText(block, at, size, text);
    return;
  }
  // base-256
  for (size_t i = 0; i < size; ++i) {
    const size_t shift = 8 * (size - 1 - i);
    const int64_t byte = shift >= 64 ? (value < 0 ? -1 : 0) : value >> std::min<size_t>(shift, 63);
    (*block)[at + i] = static_cast<char>(byte & 0xff);
  }
  (*block)[at] = static_cast<char>((*block)[at] | 0x80);
}

std::string Padding(size_t size) { return std::string((kBlock - size % kBlock) % kBlock, '\0'); }

}  // namespace

void FixChecksum(std::string* block) {
  block->replace(148, 8, 8, ' ');
  unsigned sum = 0;
  for (const char c : *block) sum += static_cast<uint8_t>(c);
  char text[8];
  snprintf(text, sizeof text, "%06o", sum);
  block->replace(148, 7, text, 7);
}

std::string HeaderBlock(const Header& header, uint64_t data_size) {
  std::string block(kBlock, '\0');
  PutText(&block, 0, 100, header.name);
  PutNumber(&block, 100, 8, static_cast<int64_t>(header.mode));
  PutNumber(&block, 108, 8, header.uid);
  PutNumber(&block, 116, 8, header.gid);
  PutNumber(&block, 124, 12, header.size < 0 ? static_cast<int64_t>(data_size) : header.size);
  PutNumber(&block, 136, 12, header.mtime);
  block[156] = header.type;
  PutText(&block, 157, 100, header.link);
  PutText(&block, 257, 8, header.magic);
  if (header.type == '3' || header.type == '4') {
    PutNumber(&block, 329, 8, header.major);
    PutNumber(&block, 337, 8, header.minor);
  }
  PutText(&block, 345, 155, header.prefix);
  FixChecksum(&block);
  return block;
}

TarBuilder& TarBuilder::Add(const Header& header, absl::string_view data) {
  out_ += HeaderBlock(header, data.size());
  out_.append(data.data(), data.size());
  out_ += Padding(data.size());
  return *this;
}

TarBuilder& TarBuilder::File(const std::string& name, absl::string_view data, uint64_t mode) {
  return Add({.name = name, .mode = mode}, data);
}

TarBuilder& TarBuilder::Dir(const std::string& name, uint64_t mode) {
  return Add({.name = name, .type = '5', .mode = mode});
}

TarBuilder& TarBuilder::Symlink(const std::string& name, const std::string& target) {
  return Add({.name = name, .type = '2', .mode = 0777, .link = target});
}

TarBuilder& TarBuilder::HardLink(const std::string& name, const std::string& target) {
  return Add({.name = name, .type = '1', .link = target});
}

TarBuilder& TarBuilder::Device(const std::string& name, char type, uint32_t major, uint32_t minor) {
  return Add({.name = name, .type = type, .major = major, .minor = minor});
}

std::string PaxRecord(const std::string& key, const std::string& value) {
  const size_t body = key.size() + value.size() + 3;
  size_t length = body + 1;
  while (absl::StrCat(length).size() + body != length) ++length;
  return absl::StrCat(length, " ", key, "=", value, "\n");
}

TarBuilder& TarBuilder::Pax(const std::vector<std::pair<std::string, std::string>>& records,
                            char type) {
  std::string data;
  for (const auto& [key, value] : records) data += PaxRecord(key, value);
  return Add({.name = "PaxHeaders/0", .type = type}, data);
}

TarBuilder& TarBuilder::Long(char type, const std::string& text) {
  return Add({.name = "././@LongLink", .type = type, .magic = std::string("ustar  \0", 8)},
             text + std::string(1, '\0'));
}

TarBuilder& TarBuilder::Raw(absl::string_view bytes) {
  out_.append(bytes.data(), bytes.size());
  return *this;
}

std::string TarBuilder::Finish() const { return out_ + std::string(2 * kBlock, '\0'); }

std::string Gzip(absl::string_view data) {
  z_stream stream{};
  deflateInit2(&stream, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY);
  std::string out(deflateBound(&stream, data.size()) + 64, '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(data.data()));
  stream.avail_in = static_cast<uInt>(data.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  deflate(&stream, Z_FINISH);
  out.resize(stream.total_out);
  deflateEnd(&stream);
  return out;
}

std::string Zstd(absl::string_view data) {
  std::string out(ZSTD_compressBound(data.size()), '\0');
  ZSTD_CCtx* const context = ZSTD_createCCtx();
  ZSTD_CCtx_setParameter(context, ZSTD_c_checksumFlag, 1);
  out.resize(ZSTD_compress2(context, out.data(), out.size(), data.data(), data.size()));
  ZSTD_freeCCtx(context);
  return out;
}

}  // namespace davit::images::unpack::testing

#include "images/unpack/decompressor.h"

#include <gtest/gtest.h>
#include <zlib.h>
#include <zstd.h>

#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "images/unpack/testing/tar_builder.h"

namespace davit::images::unpack {
namespace {

using testing::Gzip;
using testing::Zstd;

struct Output {
  std::string data;
  Compression kind = Compression::kNone;
};

absl::StatusOr<Output> Decompress(absl::string_view blob, size_t in_piece, size_t out_piece) {
  Decompressor decompressor;
  Output output;
  std::string out(out_piece, '\0');
  for (size_t at = 0; at < blob.size(); at += in_piece) {
    absl::string_view in = blob.substr(at, in_piece);
    for (size_t written = out_piece; !in.empty() || written == out_piece;) {
      const auto result = decompressor.Decode(&in, out.data(), out.size());
      if (!result.ok()) return result.status();
      written = *result;
      output.data.append(out, 0, written);
    }
  }
  for (;;) {
    const auto result = decompressor.Finish(out.data(), out.size());
    if (!result.ok()) return result.status();
    if (*result == 0) break;
    output.data.append(out, 0, *result);
  }
  output.kind = decompressor.kind();
  return output;
}

// Text that compresses about as a layer does.
std::string Sample(size_t size) {
  std::mt19937 random(42);
  std::string data;
  while (data.size() < size) {
    absl::StrAppend(&data, "file ", random() % 1000, " of ", random() % 7, "\n");
    if (random() % 50 == 0) data += std::string(random() % 3000, static_cast<char>(random()));
  }
  data.resize(size);
  return data;
}

void ExpectRoundTrip(absl::string_view blob, absl::string_view want, Compression kind) {
  const std::pair<size_t, size_t> kPieces[] = {
      {1, 1}, {1, 65536}, {7, 13}, {1000, 333}, {65536, 1}, {65537, 262144}, {1 << 24, 1 << 20}};
  for (const auto& [in, out] : kPieces) {
    if (in * out < 1000 && want.size() > 200000) continue;
    const auto output = Decompress(blob, in, out);
    ASSERT_TRUE(output.ok()) << in << "/" << out << ": " << output.status();
    EXPECT_EQ(output->kind, kind);
    EXPECT_TRUE(absl::string_view(output->data) == want) << in << "/" << out;
  }
}

TEST(Decompressor, TellsTheFormatByItsFirstBytes) {
  for (const size_t size : {0, 1, 2, 3, 4, 5, 1000, 300000}) {
    const std::string data = Sample(size);
    ExpectRoundTrip(data, data, Compression::kNone);
    ExpectRoundTrip(Gzip(data), data, Compression::kGzip);
    ExpectRoundTrip(Zstd(data), data, Compression::kZstd);
  }
}

TEST(Decompressor, ReadsGzipOfManyMembers) {
  std::string blob;
  std::string want;
  for (int i = 0; i < 50; ++i) {  // an eStargz layer has one for each chunk
    const std::string part = Sample(static_cast<size_t>(i) * 97);
    want += part;
    blob += Gzip(part);
  }
  ExpectRoundTrip(blob, want, Compression::kGzip);
}

TEST(Decompressor, ReadsGzipHeadersWithEveryOptionalField) {
  std::string data = Sample(5000);
  z_stream stream{};
  deflateInit2(&stream, 9, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY);
  gz_header header{};
  std::string extra(300, 'e');
  header.extra = reinterpret_cast<Bytef*>(extra.data());
  header.extra_len = 300;
  char name[] = "layer.tar";
  char comment[] = "a comment";
  header.name = reinterpret_cast<Bytef*>(name);
  header.comment = reinterpret_cast<Bytef*>(comment);
  header.hcrc = 1;
  deflateSetHeader(&stream, &header);
  std::string out(20000, '\0');
  stream.next_in = reinterpret_cast<Bytef*>(data.data());
  stream.avail_in = static_cast<uInt>(data.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  deflate(&stream, Z_FINISH);
  out.resize(stream.total_out);
  deflateEnd(&stream);
  ExpectRoundTrip(out, data, Compression::kGzip);

  out[20] ^= 1;  // inside the extra field: only the header's own checksum sees it
  EXPECT_TRUE(absl::IsDataLoss(Decompress(out, 1000, 1000).status()));
}

TEST(Decompressor, ReadsStoredAndHuffmanOnlyBlocks) {
  std::mt19937 random(1);
  std::string data(200000, '\0');
  for (char& c : data) c = static_cast<char>(random());
  ExpectRoundTrip(Gzip(data), data, Compression::kGzip);
  const std::string zeros(3 << 20, '\0');
  ExpectRoundTrip(Gzip(zeros), zeros, Compression::kGzip);
}

TEST(Decompressor, ReadsZstdOfManyFramesAndSkipsSkippableOnes) {
  const std::string skippable("\x5f\x2a\x4d\x18\x05\0\0\0abcde", 13);
  std::string blob = skippable;
  std::string want;
  for (int i = 0; i < 20; ++i) {
    const std::string part = Sample(static_cast<size_t>(i) * 1013);
    want += part;
    blob += Zstd(part);
    blob += skippable;
  }
  ExpectRoundTrip(blob, want, Compression::kZstd);
}

TEST(Decompressor, RefusesEveryTruncation) {
  const std::string data = Sample(3000);
  for (const std::string& blob : {Gzip(data), Zstd(data), Gzip(data) + Gzip(data)}) {
    for (size_t size = 4; size < blob.size(); ++size) {
      // The border between two members is a complete stream.
      if (size == Gzip(data).size() && blob.size() == 2 * size) continue;
      const auto output = Decompress(blob.substr(0, size), 100, 5000);
      EXPECT_TRUE(absl::IsDataLoss(output.status())) << size << " of " << blob.size();
    }
  }
}

TEST(Decompressor, RefusesDamage) {
  const std::string data = Sample(20000);
  for (const std::string& blob : {Gzip(data), Zstd(data)}) {
    for (size_t at = 10; at < blob.size(); at += 37) {
      std::string bad = blob;
      bad[at] ^= 0x10;
      const auto output = Decompress(bad, 1 << 20, 1 << 20);
      EXPECT_FALSE(output.ok()) << "byte " << at << " of " << blob.size();
    }
  }
}

TEST(Decompressor, VerifiesTheTrailersCrcAndSize) {
  const std::string blob = Gzip(Sample(1000));
  for (size_t back = 1; back <= 8; ++back) {
    std::string bad = blob;
    bad[bad.size() - back] ^= 1;
    for (const size_t piece : {1, 3, 100000}) {
      EXPECT_TRUE(absl::IsDataLoss(Decompress(bad, piece, 10000).status())) << back;
    }
  }
}

TEST(Decompressor, RefusesBytesBehindTheEnd) {
  const std::string data = Sample(100);
  EXPECT_TRUE(absl::IsDataLoss(Decompress(Gzip(data) + "junk", 10, 1000).status()));
  EXPECT_TRUE(absl::IsDataLoss(Decompress(Gzip(data) + std::string(16, '\0'), 10, 1000).status()));
  EXPECT_TRUE(absl::IsDataLoss(Decompress(Zstd(data) + "junk", 10, 1000).status()));
}

TEST(Decompressor, RefusesAZstdWindowBeyondItsBound) {
  const std::string data = Sample(1000);
  ZSTD_CCtx* const context = ZSTD_createCCtx();
  ZSTD_CCtx_setParameter(context, ZSTD_c_windowLog, 28);
  ZSTD_CCtx_setParameter(context, ZSTD_c_enableLongDistanceMatching, 1);
  ZSTD_CCtx_setParameter(context, ZSTD_c_contentSizeFlag, 0);
  std::string blob(ZSTD_compressBound(data.size()), '\0');
  ZSTD_inBuffer in{data.data(), data.size(), 0};
  ZSTD_outBuffer out{blob.data(), blob.size(), 0};
  // Begun before the size is known, or the window would shrink to it.
  ZSTD_compressStream2(context, &out, &in, ZSTD_e_continue);
  while (ZSTD_compressStream2(context, &out, &in, ZSTD_e_end) != 0) {
  }
  ZSTD_freeCCtx(context);
  blob.resize(out.pos);
  EXPECT_TRUE(absl::IsFailedPrecondition(Decompress(blob, 100, 1000).status()));
}

// The inflate implementation is compared with zlib's on damaged streams: both refuse, or both give
// the same bytes.
TEST(Decompressor, AgreesWithZlibOnMangledGzip) {
  const std::string good = Gzip(Sample(4000));
  std::mt19937 random(3);
  for (int round = 0; round < 2000; ++round) {
    std::string bad = good;
    for (int change = 0; change <= round % 3; ++change) {
      bad[3 + random() % (bad.size() - 3)] = static_cast<char>(random());
    }
    z_stream stream{};
    inflateInit2(&stream, 15 + 16);
    std::string want(1 << 16, '\0');
    stream.next_in = reinterpret_cast<Bytef*>(bad.data());
    stream.avail_in = static_cast<uInt>(bad.size());
    stream.next_out = reinterpret_cast<Bytef*>(want.data());
    stream.avail_out = static_cast<uInt>(want.size());
    const int result = inflate(&stream, Z_FINISH);
    want.resize(stream.total_out);
    const bool whole = result == Z_STREAM_END && stream.avail_in == 0;
    inflateEnd(&stream);
    const auto got = Decompress(bad, 1 + random() % 500, 1 + random() % 5000);
    EXPECT_EQ(got.ok(), whole) << "round " << round << ": " << got.status();
    if (got.ok() && whole) {
      EXPECT_EQ(got->data, want);
    }
  }
}

}  // namespace
}  // namespace davit::images::unpack

// How long one layer takes through davit-unpack, as the daemon runs it, and where the bound is:
//   unpack_benchmark HELPER BLOB DIRECTORY [RUNS]
// DIRECTORY must exist; each run makes, syncs and removes DIRECTORY/run. Use a journaled ext4, XFS
// or tmpfs: ext4 without a journal slows down for minutes after a large removal.

#include <fcntl.h>
#include <openssl/evp.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <string>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "images/unpack/client.h"
#include "runtime/sys/errno.h"
#include "runtime/sys/file.h"

namespace davit::images::unpack {
namespace {

// What a curl write callback brings at most.
constexpr size_t kPiece = 256 * 1024;

double CpuSeconds(int who) {
  rusage usage;
  getrusage(who, &usage);
  return static_cast<double>(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
         static_cast<double>(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

absl::Status RunOnce(int helper, absl::string_view blob, int directory) {
  DAVIT_RETURN_IF_ERROR(sys::RemoveTreeAt(directory, "run"));
  DAVIT_RETURN_IF_ERROR(sys::MakeDirAt(directory, "run", 0755));
  DAVIT_ASSIGN_OR_RETURN(sys::UniqueFd staging,
                         sys::OpenAt(directory, "run", O_RDONLY | O_DIRECTORY));
  const double cpu = CpuSeconds(RUSAGE_CHILDREN);
  const absl::Time start = absl::Now();
  UnpackOptions options;
  options.helper_fd = helper;
  options.staging_fd = staging.get();
  DAVIT_ASSIGN_OR_RETURN(const auto unpacker, StartUnpackProcess(options));
  EVP_MD_CTX* const digest = EVP_MD_CTX_new();
  EVP_DigestInit_ex(digest, EVP_sha256(), nullptr);
  while (!blob.empty()) {
    const absl::string_view piece = blob.substr(0, kPiece);
    EVP_DigestUpdate(digest, piece.data(), piece.size());
    DAVIT_RETURN_IF_ERROR(unpacker->Write(piece));
    blob.remove_prefix(piece.size());
  }
  EVP_MD_CTX_free(digest);
  DAVIT_ASSIGN_OR_RETURN(const UnpackResult result, unpacker->Finish());
  const absl::Time unpacked = absl::Now();
  const double cpu_used = CpuSeconds(RUSAGE_CHILDREN) - cpu;
  if (syncfs(staging.get()) != 0) return sys::ErrnoStatus(errno, "syncfs");
  printf(
      "%llu entries, %.1f MB -> %.1f MB: %.3f s (helper's CPU %.2f s), %.0f MB/s; syncfs %.3f s\n",
      static_cast<unsigned long long>(result.entries),
      static_cast<double>(result.compressed_size) / 1e6,
      static_cast<double>(result.uncompressed_size) / 1e6, absl::ToDoubleSeconds(unpacked - start),
      cpu_used,
      static_cast<double>(result.uncompressed_size) / 1e6 / absl::ToDoubleSeconds(unpacked - start),
      absl::ToDoubleSeconds(absl::Now() - unpacked));
  return sys::RemoveTreeAt(directory, "run");
}

absl::Status Run(int argc, char** argv) {
  if (argc < 4) {
    return absl::InvalidArgumentError("usage: unpack_benchmark HELPER BLOB DIRECTORY [RUNS]");
  }
  DAVIT_ASSIGN_OR_RETURN(sys::UniqueFd helper, sys::OpenAt(AT_FDCWD, argv[1], O_RDONLY));
  DAVIT_ASSIGN_OR_RETURN(sys::UniqueFd blob, sys::OpenAt(AT_FDCWD, argv[2], O_RDONLY));
  DAVIT_ASSIGN_OR_RETURN(sys::UniqueFd directory,
                         sys::OpenAt(AT_FDCWD, argv[3], O_RDONLY | O_DIRECTORY));
  struct stat st;
  if (fstat(blob.get(), &st) != 0) return sys::ErrnoStatus(errno, "stat the blob");
  const auto size = static_cast<size_t>(st.st_size);
  void* const data = mmap(nullptr, size, PROT_READ, MAP_PRIVATE | MAP_POPULATE, blob.get(), 0);
  if (data == MAP_FAILED) return sys::ErrnoStatus(errno, "map the blob");
  for (int run = 0; run < (argc > 4 ? atoi(argv[4]) : 3); ++run) {
    DAVIT_RETURN_IF_ERROR(RunOnce(
        helper.get(), absl::string_view(static_cast<const char*>(data), size), directory.get()));
  }
  return absl::OkStatus();
}

}  // namespace
}  // namespace davit::images::unpack

int main(int argc, char** argv) {
  const absl::Status status = davit::images::unpack::Run(argc, argv);
  if (!status.ok()) fprintf(stderr, "%s\n", status.ToString().c_str());
  return status.ok() ? 0 : 1;
}

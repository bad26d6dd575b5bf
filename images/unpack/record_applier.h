#ifndef DAVIT_IMAGES_UNPACK_RECORD_APPLIER_H_
#define DAVIT_IMAGES_UNPACK_RECORD_APPLIER_H_

#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "images/unpack/result.h"
#include "proto/unpack.pb.h"
#include "runtime/sys/unique_fd.h"

namespace davit::images::unpack {

// The daemon's half of unpacking: makes what the helper described in records. The helper may be
// compromised, so a record is believed in nothing: paths must be clean, are resolved beneath the
// staging directory following no link, a node is only made where nothing is, 0:0 is only made as a
// whiteout, xattrs are trusted.* without trusted.overlay.*. The worst that a lie can do is a layer
// of the wrong content beneath its own staging directory. The helper must be gone. Not thread-safe.
class RecordApplier {
 public:
  // `staging_fd` is borrowed for the object's life.
  RecordApplier(int staging_fd, const Limits& limits) : staging_fd_(staging_fd), limits_(limits) {}

  // Applies one record, or files it under the fix-ups. FailedPrecondition if it is not acceptable.
  absl::Status Apply(const ::davit::unpack::v1::Record& record);

  const FixUps& fix_ups() const { return fix_ups_; }
  bool opaque_root() const { return opaque_root_; }
  uint64_t inodes() const { return inodes_; }  // whiteouts made

 private:
  using Record = ::davit::unpack::v1::Record;

  absl::Status Check(const Record& record) const;
  absl::Status MakeWhiteout(const Record& record);
  absl::Status MarkOpaque(const Record& record);
  absl::Status MakeDevice(const Record& record);
  absl::Status LinkDevice(const Record& record);
  absl::Status SetXattr(const Record& record);
  // Runs `make` with the parent directory and name of `path`; the parent keeps its times.
  template <typename Make>
  absl::Status InParent(absl::string_view path, absl::string_view what, Make make);

  const int staging_fd_;
  const Limits limits_;
  FixUps fix_ups_;
  bool opaque_root_ = false;
  uint64_t inodes_ = 0;
};

}  // namespace davit::images::unpack

#endif  // DAVIT_IMAGES_UNPACK_RECORD_APPLIER_H_

#ifndef DAVIT_RUNTIME_SYS_ERRNO_H_
#define DAVIT_RUNTIME_SYS_ERRNO_H_

#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace davit::sys {

// The canonical code for an errno value, chosen here and nowhere else:
// ENOENT/ESRCH -> NotFound, EEXIST -> AlreadyExists, EPERM/EACCES -> PermissionDenied,
// ENOSPC/EDQUOT/ENOMEM/EMFILE/ENFILE -> ResourceExhausted, EINVAL/ENAMETOOLONG -> InvalidArgument,
// EAGAIN/EBUSY/ECONNREFUSED -> Unavailable, ETIMEDOUT -> DeadlineExceeded,
// ENOSYS/EOPNOTSUPP -> Unimplemented, ENOTEMPTY/ENOTDIR/EISDIR/ELOOP/EXDEV -> FailedPrecondition,
// anything else -> Internal.
absl::StatusCode ErrnoToCode(int error);

// The kernel's symbol for an errno value ("ENOENT"), or its number where there is none.
std::string ErrnoName(int error);

// "<context>: No such file or directory (ENOENT)". `context` says what was being done and to which
// object: "open /etc/davit/config.toml".
absl::Status ErrnoStatus(int error, absl::string_view context);

// Puts "<context>: " before a failed status's message and keeps its code and payloads.
// An OK status passes through.
absl::Status Annotate(const absl::Status& status, absl::string_view context);

}  // namespace davit::sys

// Returns from the enclosing function if `expr` (an absl::Status) is not OK.
#define DAVIT_RETURN_IF_ERROR(expr)                                                     \
  do {                                                                                  \
    if (absl::Status davit_status_ = (expr); !davit_status_.ok()) return davit_status_; \
  } while (false)

// DAVIT_ASSIGN_OR_RETURN(auto fd, Open(path)): assigns the value, or returns the error.
#define DAVIT_ASSIGN_OR_RETURN(lhs, expr) \
  DAVIT_ASSIGN_OR_RETURN_(DAVIT_CONCAT_(davit_statusor_, __LINE__), lhs, expr)
#define DAVIT_ASSIGN_OR_RETURN_(statusor, lhs, expr) \
  auto statusor = (expr);                            \
  if (!statusor.ok()) return statusor.status();      \
  lhs = *std::move(statusor)
#define DAVIT_CONCAT_(a, b) DAVIT_CONCAT_INNER_(a, b)
#define DAVIT_CONCAT_INNER_(a, b) a##b

#endif  // DAVIT_RUNTIME_SYS_ERRNO_H_

#include "images/store/sqlite.h"

#include <fcntl.h>
#include <sqlite3.h>
#include <sys/stat.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "runtime/sys/errno.h"
#include "runtime/sys/unique_fd.h"

namespace davit::images {
namespace {

absl::Status Error(sqlite3* db, int code) {
  const std::string message = absl::StrCat("image database: ", sqlite3_errmsg(db));
  switch (code & 0xff) {
    case SQLITE_FULL:
    case SQLITE_NOMEM:
      return absl::ResourceExhaustedError(message);
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
      return absl::DataLossError(message);
    case SQLITE_READONLY:
    case SQLITE_PERM:
    case SQLITE_AUTH:
      return absl::PermissionDeniedError(message);
    case SQLITE_IOERR:
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
    case SQLITE_CANTOPEN:
      return absl::UnavailableError(message);
    default:
      return absl::InternalError(message);
  }
}

// Of the database and of its log each.
constexpr off_t kReservedBytes = 1024 * 1024;

// Blocks beyond the end of a file, so that a transaction can be written on a full disk. Only a
// wish: on a disk that is full already, those of an earlier run are still there.
void ReserveSpace(const std::string& path) {
  const sys::UniqueFd file(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
  struct stat st;
  if (!file.ok() || fstat(file.get(), &st) != 0) return;
  fallocate(file.get(), FALLOC_FL_KEEP_SIZE, 0, st.st_size + kReservedBytes);
}

}  // namespace

SqliteStatement::SqliteStatement(SqliteStatement&& other) noexcept
    : db_(other.db_), statement_(std::exchange(other.statement_, nullptr)), bound_(other.bound_) {}

SqliteStatement::~SqliteStatement() { sqlite3_finalize(statement_); }

SqliteStatement& SqliteStatement::Bind(int64_t value) {
  sqlite3_bind_int64(statement_, ++bound_, value);
  return *this;
}

SqliteStatement& SqliteStatement::Bind(absl::string_view value) {
  sqlite3_bind_text64(statement_, ++bound_, value.empty() ? "" : value.data(), value.size(),
                      SQLITE_TRANSIENT, SQLITE_UTF8);
  return *this;
}

absl::StatusOr<bool> SqliteStatement::Step() {
  const int code = sqlite3_step(statement_);
  if (code == SQLITE_ROW) return true;
  if (code == SQLITE_DONE) return false;
  return Error(db_, code);
}

absl::Status SqliteStatement::Run() {
  absl::Status status = Step().status();
  sqlite3_reset(statement_);
  bound_ = 0;
  return status;
}

int64_t SqliteStatement::Integer(int column) const {
  return sqlite3_column_int64(statement_, column);
}

std::string SqliteStatement::Text(int column) const {
  const unsigned char* text = sqlite3_column_text(statement_, column);
  const int size = sqlite3_column_bytes(statement_, column);
  if (text == nullptr) return "";
  return std::string(reinterpret_cast<const char*>(text), static_cast<size_t>(size));
}

absl::StatusOr<std::unique_ptr<Sqlite>> Sqlite::Open(const std::string& path) {
  sqlite3* handle = nullptr;
  // Before it is opened: closing any descriptor of the file would give SQLite's locks up.
  ReserveSpace(path);
  const int code =
      sqlite3_open_v2(path.c_str(), &handle,
                      SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX, nullptr);
  auto db = std::unique_ptr<Sqlite>(new Sqlite(handle));
  if (code != SQLITE_OK) return sys::Annotate(Error(handle, code), absl::StrCat("open ", path));
  sqlite3_extended_result_codes(handle, 1);
  sqlite3_busy_timeout(handle, 5000);
  const absl::Status status = db->Execute(
      "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA foreign_keys=ON;"
      "PRAGMA trusted_schema=OFF;"
      // Before the log outgrows what is reserved for it.
      "PRAGMA wal_autocheckpoint=128;");
  if (!status.ok()) return sys::Annotate(status, absl::StrCat("open ", path));
  // The log and its index stay when the database is closed, and so does their space.
  int persist = 1;
  sqlite3_file_control(handle, "main", SQLITE_FCNTL_PERSIST_WAL, &persist);
  ReserveSpace(path + "-wal");
  return db;
}

Sqlite::~Sqlite() { sqlite3_close_v2(db_); }

absl::Status Sqlite::Execute(const char* sql) {
  const int code = sqlite3_exec(db_, sql, nullptr, nullptr, nullptr);
  return code == SQLITE_OK ? absl::OkStatus() : Error(db_, code);
}

absl::StatusOr<SqliteStatement> Sqlite::Prepare(const char* sql) {
  sqlite3_stmt* statement = nullptr;
  const int code = sqlite3_prepare_v2(db_, sql, -1, &statement, nullptr);
  if (code != SQLITE_OK) return Error(db_, code);
  return SqliteStatement(db_, statement);
}

absl::StatusOr<int64_t> Sqlite::QueryInteger(const char* sql) {
  DAVIT_ASSIGN_OR_RETURN(SqliteStatement statement, Prepare(sql));
  DAVIT_ASSIGN_OR_RETURN(const bool row, statement.Step());
  return row ? statement.Integer(0) : 0;
}

absl::Status Sqlite::Transaction(const std::function<absl::Status()>& body) {
  DAVIT_RETURN_IF_ERROR(Execute("BEGIN IMMEDIATE"));
  absl::Status status = body();
  if (status.ok()) status = Execute("COMMIT");
  // Fails where SQLite has rolled back itself, as it does on a full disk.
  if (!status.ok()) sqlite3_exec(db_, "ROLLBACK", nullptr, nullptr, nullptr);
  return status;
}

}  // namespace davit::images

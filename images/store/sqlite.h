#ifndef DAVIT_IMAGES_STORE_SQLITE_H_
#define DAVIT_IMAGES_STORE_SQLITE_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

struct sqlite3;
struct sqlite3_stmt;

namespace davit::images {

// A prepared statement. Parameters are bound in their order, from 1. Not thread-safe; must not
// outlive its Sqlite.
class SqliteStatement {
 public:
  SqliteStatement(sqlite3* db, sqlite3_stmt* statement) : db_(db), statement_(statement) {}
  SqliteStatement(SqliteStatement&& other) noexcept;
  SqliteStatement& operator=(SqliteStatement&&) = delete;
  ~SqliteStatement();

  SqliteStatement& Bind(int64_t value);
  SqliteStatement& Bind(absl::string_view value);

  // True: a row is there. False: there are no more.
  absl::StatusOr<bool> Step();
  // Runs a statement that gives no rows, and makes it ready to be bound again.
  absl::Status Run();

  int64_t Integer(int column) const;
  std::string Text(int column) const;

 private:
  sqlite3* const db_;
  sqlite3_stmt* statement_;
  int bound_ = 0;
};

// A SQLite database in WAL mode with synchronous=FULL: a transaction that has returned survives a
// power cut. Space for some transactions is reserved on the disk, so that what makes room can be
// written down when the disk is full. Not thread-safe: the owner serialises. Errors:
// ResourceExhausted (disk full), DataLoss (the file is damaged or no database), Internal.
class Sqlite {
 public:
  static absl::StatusOr<std::unique_ptr<Sqlite>> Open(const std::string& path);
  ~Sqlite();
  Sqlite(const Sqlite&) = delete;
  Sqlite& operator=(const Sqlite&) = delete;

  // Several statements without parameters.
  absl::Status Execute(const char* sql);
  absl::StatusOr<SqliteStatement> Prepare(const char* sql);
  absl::StatusOr<int64_t> QueryInteger(const char* sql);

  // Runs `body` in a transaction that is rolled back when it fails.
  absl::Status Transaction(const std::function<absl::Status()>& body);

 private:
  explicit Sqlite(sqlite3* db) : db_(db) {}
  sqlite3* const db_;
};

}  // namespace davit::images

#endif  // DAVIT_IMAGES_STORE_SQLITE_H_

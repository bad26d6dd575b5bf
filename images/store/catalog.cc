#include "images/store/catalog.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "runtime/sys/errno.h"
#include "runtime/sys/file.h"

namespace davit::images {
namespace {

constexpr int kVersion = 2;

constexpr char kVersion1[] = R"sql(
CREATE TABLE images (
  id TEXT PRIMARY KEY,
  manifest_digest TEXT NOT NULL,
  artifact INTEGER NOT NULL,
  size INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE names (
  name TEXT PRIMARY KEY,
  image_id TEXT NOT NULL REFERENCES images(id) ON DELETE CASCADE
) WITHOUT ROWID;
CREATE INDEX names_by_image ON names(image_id);
CREATE TABLE manifests (
  image_id TEXT NOT NULL REFERENCES images(id) ON DELETE CASCADE,
  digest TEXT NOT NULL,
  media_type TEXT NOT NULL,
  size INTEGER NOT NULL,
  kind INTEGER NOT NULL,
  PRIMARY KEY (image_id, digest)
) WITHOUT ROWID;
CREATE TABLE layers (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  key TEXT NOT NULL UNIQUE,
  diff_id TEXT NOT NULL,
  bytes INTEGER NOT NULL,
  inodes INTEGER NOT NULL,
  entries INTEGER NOT NULL,
  has_root_entry INTEGER NOT NULL
);
CREATE TABLE image_layers (
  image_id TEXT NOT NULL REFERENCES images(id) ON DELETE CASCADE,
  position INTEGER NOT NULL,
  layer_id INTEGER NOT NULL REFERENCES layers(id),
  PRIMARY KEY (image_id, position)
) WITHOUT ROWID;
CREATE INDEX image_layers_by_layer ON image_layers(layer_id);
PRAGMA user_version = 1;
)sql";

constexpr char kVersion2[] = R"sql(
ALTER TABLE layers ADD COLUMN opaque_root INTEGER NOT NULL DEFAULT 0;
PRAGMA user_version = 2;
)sql";

int64_t Signed(uint64_t value) { return static_cast<int64_t>(value); }
uint64_t Unsigned(int64_t value) { return static_cast<uint64_t>(value); }

// True as well for what is not there, or empty (SQLite's file format, section 1.3).
bool MayBeDatabase(const std::string& path) {
  const auto file = sys::OpenAt(AT_FDCWD, path, O_RDONLY | O_NOFOLLOW);
  if (!file.ok()) return true;
  static constexpr char kMagic[16] = "SQLite format 3";
  char begin[sizeof kMagic];
  const ssize_t n = pread(file->get(), begin, sizeof begin, 0);
  return n <= 0 || (n == sizeof begin && memcmp(begin, kMagic, sizeof kMagic) == 0);
}

}  // namespace

absl::StatusOr<std::unique_ptr<Catalog>> Catalog::Open(const std::string& path) {
  // SQLite would wait for the writer of a FIFO, and says little of what else is no file.
  for (const char* suffix : {"", "-wal", "-shm"}) {
    const std::string file = path + suffix;
    struct stat st;
    if (lstat(file.c_str(), &st) == 0 && !S_ISREG(st.st_mode)) {
      return absl::DataLossError(absl::StrCat(file, " is not a regular file"));
    }
  }
  // With a log beside it SQLite would write the log's pages over whatever this is.
  if (!MayBeDatabase(path)) {
    return absl::DataLossError(absl::StrCat(path, " is not a database"));
  }
  DAVIT_ASSIGN_OR_RETURN(std::unique_ptr<Sqlite> db, Sqlite::Open(path));
  auto catalog = std::unique_ptr<Catalog>(new Catalog(std::move(db)));
  DAVIT_RETURN_IF_ERROR(catalog->Migrate(path));
  return catalog;
}

absl::Status Catalog::Migrate(const std::string& path) {
  DAVIT_ASSIGN_OR_RETURN(SqliteStatement check, db_->Prepare("PRAGMA quick_check(1)"));
  DAVIT_ASSIGN_OR_RETURN(const bool row, check.Step());
  if (!row || check.Text(0) != "ok") {
    return absl::DataLossError(absl::StrCat(
        path, " is damaged (", row ? check.Text(0) : "no answer to the check",
        "); move it away to start with an empty image store: images are then pulled again"));
  }
  DAVIT_ASSIGN_OR_RETURN(const int64_t version, db_->QueryInteger("PRAGMA user_version"));
  if (version > kVersion) {
    return absl::FailedPreconditionError(
        absl::StrCat(path, " has version ", version, "; this davitd knows up to ", kVersion));
  }
  if (version == kVersion) return absl::OkStatus();
  return db_->Transaction([this, version]() -> absl::Status {
    if (version < 1) DAVIT_RETURN_IF_ERROR(db_->Execute(kVersion1));
    return db_->Execute(kVersion2);
  });
}

absl::StatusOr<Catalog::Content> Catalog::Load() {
  Content content;
  DAVIT_ASSIGN_OR_RETURN(content.layers, LoadLayers());
  DAVIT_ASSIGN_OR_RETURN(content.images, LoadImages());
  DAVIT_ASSIGN_OR_RETURN(
      const int64_t last,
      db_->QueryInteger("SELECT seq FROM sqlite_sequence WHERE name = 'layers'"));
  content.next_layer_id = last + 1;
  return content;
}

absl::StatusOr<std::vector<LayerRecord>> Catalog::LoadLayers() {
  std::vector<LayerRecord> layers;
  DAVIT_ASSIGN_OR_RETURN(SqliteStatement rows,
                         db_->Prepare("SELECT id, key, diff_id, bytes, inodes, entries, "
                                      "has_root_entry, opaque_root FROM layers ORDER BY id"));
  for (;;) {
    DAVIT_ASSIGN_OR_RETURN(const bool row, rows.Step());
    if (!row) return layers;
    LayerRecord layer;
    layer.id = rows.Integer(0);
    layer.key = rows.Text(1);
    layer.diff_id = rows.Text(2);
    layer.bytes = Unsigned(rows.Integer(3));
    layer.inodes = Unsigned(rows.Integer(4));
    layer.entries = Unsigned(rows.Integer(5));
    layer.has_root_entry = rows.Integer(6) != 0;
    layer.opaque_root = rows.Integer(7) != 0;
    layers.push_back(std::move(layer));
  }
}

absl::StatusOr<std::vector<ImageRecord>> Catalog::LoadImages() {
  std::map<std::string, ImageRecord> images;
  DAVIT_ASSIGN_OR_RETURN(SqliteStatement rows,
                         db_->Prepare("SELECT id, manifest_digest, artifact, size FROM images"));
  for (;;) {
    DAVIT_ASSIGN_OR_RETURN(const bool row, rows.Step());
    if (!row) break;
    ImageRecord& image = images[rows.Text(0)];
    image.id = rows.Text(0);
    image.manifest_digest = rows.Text(1);
    image.artifact = rows.Integer(2) != 0;
    image.size = Unsigned(rows.Integer(3));
  }
  DAVIT_ASSIGN_OR_RETURN(SqliteStatement names,
                         db_->Prepare("SELECT image_id, name FROM names ORDER BY name"));
  for (;;) {
    DAVIT_ASSIGN_OR_RETURN(const bool row, names.Step());
    if (!row) break;
    images[names.Text(0)].names.push_back(names.Text(1));
  }
  DAVIT_ASSIGN_OR_RETURN(
      SqliteStatement blobs,
      db_->Prepare("SELECT image_id, digest, media_type, size, kind FROM manifests"));
  for (;;) {
    DAVIT_ASSIGN_OR_RETURN(const bool row, blobs.Step());
    if (!row) break;
    images[blobs.Text(0)].blobs.push_back({blobs.Text(1), blobs.Text(2), Unsigned(blobs.Integer(3)),
                                           static_cast<BlobKind>(blobs.Integer(4))});
  }
  DAVIT_ASSIGN_OR_RETURN(
      SqliteStatement layers,
      db_->Prepare("SELECT image_id, layer_id FROM image_layers ORDER BY image_id, position"));
  for (;;) {
    DAVIT_ASSIGN_OR_RETURN(const bool row, layers.Step());
    if (!row) break;
    images[layers.Text(0)].layers.push_back(layers.Integer(1));
  }
  std::vector<ImageRecord> list;
  for (auto& [id, image] : images) list.push_back(std::move(image));
  return list;
}

absl::Status Catalog::PutImage(const ImageRecord& image,
                               const std::vector<LayerRecord>& new_layers) {
  return db_->Transaction([&]() -> absl::Status {
    DAVIT_ASSIGN_OR_RETURN(SqliteStatement insert,
                           db_->Prepare("INSERT OR IGNORE INTO layers (id, key, diff_id, bytes, "
                                        "inodes, entries, has_root_entry, opaque_root) "
                                        "VALUES (?,?,?,?,?,?,?,?)"));
    for (const LayerRecord& layer : new_layers) {
      insert.Bind(layer.id).Bind(layer.key).Bind(layer.diff_id).Bind(Signed(layer.bytes));
      insert.Bind(Signed(layer.inodes)).Bind(Signed(layer.entries));
      insert.Bind(int64_t{layer.has_root_entry}).Bind(int64_t{layer.opaque_root});
      DAVIT_RETURN_IF_ERROR(insert.Run());
    }
    return InsertImage(image);
  });
}

absl::Status Catalog::InsertImage(const ImageRecord& image) {
  DAVIT_ASSIGN_OR_RETURN(SqliteStatement insert,
                         db_->Prepare("INSERT OR IGNORE INTO images VALUES (?,?,?,?)"));
  insert.Bind(image.id).Bind(image.manifest_digest).Bind(int64_t{image.artifact});
  DAVIT_RETURN_IF_ERROR(insert.Bind(Signed(image.size)).Run());
  DAVIT_ASSIGN_OR_RETURN(SqliteStatement name,
                         db_->Prepare("INSERT OR REPLACE INTO names VALUES (?,?)"));
  for (const std::string& text : image.names) {
    DAVIT_RETURN_IF_ERROR(name.Bind(text).Bind(image.id).Run());
  }
  DAVIT_ASSIGN_OR_RETURN(SqliteStatement blob,
                         db_->Prepare("INSERT OR IGNORE INTO manifests VALUES (?,?,?,?,?)"));
  for (const BlobRecord& record : image.blobs) {
    blob.Bind(image.id).Bind(record.digest).Bind(record.media_type).Bind(Signed(record.size));
    DAVIT_RETURN_IF_ERROR(blob.Bind(static_cast<int64_t>(record.kind)).Run());
  }
  DAVIT_ASSIGN_OR_RETURN(SqliteStatement layer,
                         db_->Prepare("INSERT OR IGNORE INTO image_layers VALUES (?,?,?)"));
  for (size_t i = 0; i < image.layers.size(); ++i) {
    layer.Bind(image.id).Bind(static_cast<int64_t>(i)).Bind(image.layers[i]);
    DAVIT_RETURN_IF_ERROR(layer.Run());
  }
  return absl::OkStatus();
}

absl::Status Catalog::RemoveImages(const std::vector<std::string>& ids) {
  return db_->Transaction([&]() -> absl::Status {
    DAVIT_ASSIGN_OR_RETURN(SqliteStatement remove, db_->Prepare("DELETE FROM images WHERE id = ?"));
    for (const std::string& id : ids) DAVIT_RETURN_IF_ERROR(remove.Bind(id).Run());
    return absl::OkStatus();
  });
}

absl::Status Catalog::DeleteLayers(const std::vector<int64_t>& ids) {
  return db_->Transaction([&]() -> absl::Status {
    DAVIT_ASSIGN_OR_RETURN(SqliteStatement remove, db_->Prepare("DELETE FROM layers WHERE id = ?"));
    for (const int64_t id : ids) DAVIT_RETURN_IF_ERROR(remove.Bind(id).Run());
    return absl::OkStatus();
  });
}

}  // namespace davit::images

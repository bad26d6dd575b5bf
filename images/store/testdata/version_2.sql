-- images.db of version 2.
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
ALTER TABLE layers ADD COLUMN opaque_root INTEGER NOT NULL DEFAULT 0;
INSERT INTO images VALUES ('sha256:aaaa', 'sha256:bbbb', 0, 4096);
INSERT INTO images VALUES ('sha256:cccc', 'sha256:dddd', 1, 7);
INSERT INTO names VALUES ('docker.io/library/busybox:latest', 'sha256:aaaa');
INSERT INTO names VALUES ('docker.io/library/busybox@sha256:bbbb', 'sha256:aaaa');
INSERT INTO manifests VALUES ('sha256:aaaa', 'sha256:bbbb', 'application/vnd.oci.image.manifest.v1+json', 527, 1);
INSERT INTO manifests VALUES ('sha256:aaaa', 'sha256:aaaa', 'application/vnd.oci.image.config.v1+json', 1500, 2);
INSERT INTO layers(id, key, diff_id, bytes, inodes, entries, has_root_entry, opaque_root) VALUES (3, 'diff:sha256:1111', 'sha256:1111', 1048576, 12, 15, 1, 1);
INSERT INTO layers(id, key, diff_id, bytes, inodes, entries, has_root_entry, opaque_root) VALUES (4, 'chain:sha256:2222', 'sha256:3333', 10, 1, 2, 0, 0);
INSERT INTO image_layers VALUES ('sha256:aaaa', 0, 3);
INSERT INTO image_layers VALUES ('sha256:aaaa', 1, 4);
PRAGMA user_version = 2;

// Unpacks archives that other programs wrote, and compares with what those programs (or libarchive)
// unpack from them: entry by entry, with type, mode, owner, times, content, links and xattrs.

#include <archive.h>
#include <archive_entry.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <clocale>
#include <cstdlib>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "images/unpack/client.h"
#include "images/unpack/testing/tree_listing.h"
#include "runtime/sys/file.h"

namespace davit::images::unpack {
namespace {

using testing::DiffListings;
using testing::ListingOptions;
using testing::ListTree;
using testing::TempDir;

void Shell(const std::string& command) { ASSERT_EQ(system(command.c_str()), 0) << command; }

// A random tree of everything that a layer may hold, save devices.
class TreeMaker {
 public:
  TreeMaker(std::string root, unsigned seed, bool long_names, bool whole_seconds)
      : root_(std::move(root)),
        random_(seed),
        long_names_(long_names),
        whole_seconds_(whole_seconds) {}

  void Make(int entries) {
    std::vector<std::string> dirs = {""};
    std::vector<std::string> files;
    for (int i = 0; i < entries; ++i) {
      const std::string parent = dirs[random_() % dirs.size()];
      std::string name = absl::StrCat("e", i, "-");
      if (random_() % 10 == 0) name += "\xc3\xa4 b\\c\n";
      if (long_names_ && random_() % 8 == 0) name += std::string(random_() % 200, 'n');
      const std::string path = absl::StrCat(parent, "/", name);
      switch (random_() % 10) {
        case 0:
        case 1:
          if (path.size() > (long_names_ ? 1500u : 60u)) break;
          mkdir(At(path), 0755);
          dirs.push_back(path);
          break;
        case 2:
          (void)!symlink(files.empty() ? "/abs" : files[random_() % files.size()].c_str(),
                         At(path));
          break;
        case 3:
          if (!files.empty())
            (void)!link((root_ + files[random_() % files.size()]).c_str(), At(path));
          break;
        case 4:
          mkfifo(At(path), 0600);
          break;
        default:
          File(path);
          files.push_back(path);
      }
      if (!files.empty() && files.back() == path && random_() % 4 == 0) Xattr(path);
    }
    Attributes(dirs);
  }

 private:
  const char* At(const std::string& path) {
    full_ = root_ + path;
    return full_.c_str();
  }

  void File(const std::string& path) {
    const int fd = open(At(path), O_CREAT | O_WRONLY, 0644);
    const size_t kSizes[] = {0, 1, 511, 512, 513, 10'240, 40'000};
    std::string data(kSizes[random_() % 7], '\0');
    for (char& c : data) c = static_cast<char>(random_() % 64 + 32);
    (void)!write(fd, data.data(), data.size());
    if (random_() % 6 == 0) {  // holes
      for (int run = 0; run < 10; ++run) {
        (void)!pwrite(fd, "sparse", 6, static_cast<off_t>(random_() % 200'000));
      }
      (void)!ftruncate(fd, 210'000);
    }
    close(fd);
  }

  void Xattr(const std::string& path) {
    setxattr(At(path), "user.note", "\0bin\xff", 5, 0);
    if (random_() % 2 == 0) {
      setxattr(At(path), "security.capability", "\x01\0\0\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
               20, 0);
    }
  }

  void Attributes(const std::vector<std::string>& dirs) {
    const auto all = ListTree(root_, {.times = false, .xattrs = false});
    for (const auto& [path, line] : all) {
      struct stat st;
      const std::string full = root_ + "/" + path;
      lstat(full.c_str(), &st);
      const bool has_capability = lgetxattr(full.c_str(), "security.capability", nullptr, 0) > 0;
      if (random_() % 2 == 0 && !has_capability) {
        (void)!lchown(full.c_str(), random_() % 70'000, random_() % 2'000'000);
      }
      const mode_t kModes[] = {0644, 0600, 0755, 0, 0444, 04755, 02755, 01777, 0711};
      if (!S_ISLNK(st.st_mode)) chmod(full.c_str(), kModes[random_() % 9]);
    }
    // Deepest first, as setting a child's time leaves its parent's alone but making it does not.
    for (auto entry = all.rbegin(); entry != all.rend(); ++entry) {
      const std::string full = root_ + "/" + entry->first;
      const timespec time{static_cast<time_t>(random_() % 1'700'000'000),
                          whole_seconds_ ? 0 : static_cast<long>(random_() % 1'000'000'000)};
      const timespec times[2] = {time, time};
      utimensat(AT_FDCWD, full.c_str(), times, AT_SYMLINK_NOFOLLOW);
    }
  }

  const std::string root_;
  std::mt19937 random_;
  const bool long_names_;
  const bool whole_seconds_;
  std::string full_;
};

void UnpackWithDavit(const std::string& blob_path, const TempDir& into) {
  const auto blob = sys::ReadFileAt(AT_FDCWD, blob_path, size_t{1} << 32);
  ASSERT_TRUE(blob.ok()) << blob.status();
  const sys::UniqueFd helper(open("images/unpack/davit-unpack", O_RDONLY | O_CLOEXEC));
  UnpackOptions options;
  options.helper_fd = helper.get();
  options.staging_fd = into.fd();
  auto unpacker = StartUnpackProcess(options);
  ASSERT_TRUE(unpacker.ok()) << unpacker.status();
  const absl::Status written = (*unpacker)->Write(*blob);
  ASSERT_TRUE(written.ok()) << written;
  const auto result = (*unpacker)->Finish();
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_TRUE(result->fix_ups.empty());
  EXPECT_TRUE(result->warnings.empty()) << result->warnings[0];
}

struct Writer {
  const char* name;
  const char* flags;  // of GNU tar
  bool long_names;
  bool whole_seconds;
  bool xattrs;
};

class GnuTarOracle : public ::testing::TestWithParam<Writer> {};

TEST_P(GnuTarOracle, TreesEqualTheirOriginals) {
  const Writer& writer = GetParam();
  for (const unsigned seed : {1u, 2u}) {
    TempDir original;
    TempDir unpacked;
    TempDir scratch;
    TreeMaker(original.path(), seed, writer.long_names, writer.whole_seconds).Make(150);
    Shell(absl::StrCat("tar -c ", writer.flags, " -f ", scratch / "a.tar", " -C ", original.path(),
                       " ."));
    UnpackWithDavit(scratch / "a.tar", unpacked);
    const ListingOptions options{.times = true, .xattrs = writer.xattrs};
    auto want = ListTree(original.path(), options);
    EXPECT_EQ(DiffListings(ListTree(unpacked.path(), options), want), "")
        << writer.name << ", seed " << seed;
    if (HasFailure()) return;
  }
}

INSTANTIATE_TEST_SUITE_P(
    Formats, GnuTarOracle,
    ::testing::Values(
        Writer{"gnu", "--format=gnu", true, true, false},
        Writer{"gnu_sparse", "--format=gnu --sparse", true, true, false},
        Writer{"oldgnu_sparse", "--format=oldgnu --sparse", true, true, false},
        Writer{"pax", "--format=pax --xattrs --xattrs-include='*'", true, false, true},
        Writer{"pax_sparse00", "--format=pax --sparse --sparse-version=0.0", true, false, false},
        Writer{"pax_sparse01", "--format=pax --sparse --sparse-version=0.1", true, false, false},
        Writer{"pax_sparse10",
               "--format=pax --sparse --sparse-version=1.0 --xattrs --xattrs-include='*'", true,
               false, true},
        Writer{"gzip", "--format=gnu -z", true, true, false},
        Writer{"numeric_ids", "--format=gnu --numeric-owner", true, true, false}),
    [](const ::testing::TestParamInfo<Writer>& info) { return std::string(info.param.name); });

// Older formats cannot hold all names, owners and links; there the question is what GNU tar makes
// of the same archive.
class GnuTarReader : public ::testing::TestWithParam<const char*> {};

TEST_P(GnuTarReader, MakesTheSameOfTheSameArchive) {
  TempDir original;
  TempDir unpacked;
  TempDir reference;
  TempDir scratch;
  TreeMaker(original.path(), 5, /*long_names=*/false, /*whole_seconds=*/true).Make(150);
  // What the format cannot hold is left out, with a failing exit status.
  (void)!system(absl::StrCat("tar -c --format=", GetParam(), " -f ", scratch / "a.tar", " -C ",
                             original.path(), " . 2>/dev/null")
                    .c_str());
  Shell(absl::StrCat("tar -x --same-owner --same-permissions --numeric-owner -f ",
                     scratch / "a.tar", " -C ", reference.path()));
  UnpackWithDavit(scratch / "a.tar", unpacked);
  const ListingOptions options{.times = true, .xattrs = false};
  EXPECT_EQ(DiffListings(ListTree(unpacked.path(), options), ListTree(reference.path(), options)),
            "");
}

INSTANTIATE_TEST_SUITE_P(Formats, GnuTarReader, ::testing::Values("v7", "ustar"));

// Packs a tree with libarchive in its own dialect of PAX (attributes in both encodings).
void PackWithLibarchive(const std::string& from, const std::string& to, int format) {
  archive* const out = archive_write_new();
  archive_write_set_format(out, format);
  ASSERT_EQ(archive_write_open_filename(out, to.c_str()), ARCHIVE_OK);
  archive* const disk = archive_read_disk_new();
  archive_read_disk_set_symlink_physical(disk);
  archive_entry_linkresolver* const resolver = archive_entry_linkresolver_new();
  archive_entry_linkresolver_set_strategy(resolver, format);
  ASSERT_EQ(archive_read_disk_open(disk, from.c_str()), ARCHIVE_OK);
  for (;;) {
    archive_entry* entry = archive_entry_new();
    if (archive_read_next_header2(disk, entry) != ARCHIVE_OK) {
      archive_entry_free(entry);
      break;
    }
    archive_read_disk_descend(disk);
    const std::string source = archive_entry_sourcepath(entry);
    std::string path = "." + source.substr(from.size());
    archive_entry_set_pathname(entry, path.c_str());
    archive_entry* sparse = nullptr;
    archive_entry_linkify(resolver, &entry, &sparse);
    ASSERT_GE(archive_write_header(out, entry), ARCHIVE_WARN) << archive_error_string(out);
    if (archive_entry_size(entry) > 0) {  // else a link to what was written already
      int64_t written = 0;
      auto fill = [&](int64_t end) {  // the writer takes holes out again by itself
        const std::string zeros(static_cast<size_t>(end - written), '\0');
        archive_write_data(out, zeros.data(), zeros.size());
        written = end;
      };
      const void* block;
      size_t size;
      int64_t offset;
      while (archive_read_data_block(disk, &block, &size, &offset) == ARCHIVE_OK) {
        fill(offset);
        archive_write_data(out, block, size);
        written += static_cast<int64_t>(size);
      }
      fill(archive_entry_size(entry));
    }
    archive_entry_free(entry);
  }
  archive_entry_linkresolver_free(resolver);
  archive_read_free(disk);
  ASSERT_EQ(archive_write_close(out), ARCHIVE_OK);
  archive_write_free(out);
}

void UnpackWithLibarchive(const std::string& from, const std::string& to) {
  archive* const in = archive_read_new();
  archive_read_support_format_tar(in);
  archive_read_support_filter_all(in);
  ASSERT_EQ(archive_read_open_filename(in, from.c_str(), 65536), ARCHIVE_OK);
  archive* const disk = archive_write_disk_new();
  archive_write_disk_set_options(disk, ARCHIVE_EXTRACT_TIME | ARCHIVE_EXTRACT_PERM |
                                           ARCHIVE_EXTRACT_OWNER | ARCHIVE_EXTRACT_XATTR |
                                           ARCHIVE_EXTRACT_SPARSE);
  archive_entry* entry;
  for (int result; (result = archive_read_next_header(in, &entry)) != ARCHIVE_EOF;) {
    ASSERT_GE(result, ARCHIVE_WARN) << archive_error_string(in);
    archive_entry_set_pathname(entry, absl::StrCat(to, "/", archive_entry_pathname(entry)).c_str());
    if (archive_entry_hardlink(entry) != nullptr) {
      archive_entry_set_hardlink(entry,
                                 absl::StrCat(to, "/", archive_entry_hardlink(entry)).c_str());
    }
    ASSERT_GE(archive_read_extract2(in, entry, disk), ARCHIVE_WARN) << archive_error_string(in);
  }
  ASSERT_EQ(archive_write_close(disk), ARCHIVE_OK);
  archive_write_free(disk);
  archive_read_free(in);
}

TEST(LibarchiveOracle, TreesThatItPackedEqualTheirOriginals) {
  setlocale(LC_ALL, "C.UTF-8");
  for (const int format : {ARCHIVE_FORMAT_TAR_PAX_INTERCHANGE, ARCHIVE_FORMAT_TAR_GNUTAR}) {
    const bool pax = format == ARCHIVE_FORMAT_TAR_PAX_INTERCHANGE;
    TempDir original;
    TempDir unpacked;
    TempDir scratch;
    // Its PAX writer shortens the long names of sparse files (in GNU.sparse.name, which rules).
    TreeMaker(original.path(), 21, /*long_names=*/!pax, /*whole_seconds=*/!pax).Make(150);
    PackWithLibarchive(original.path(), scratch / "a.tar", format);
    if (HasFailure()) return;
    UnpackWithDavit(scratch / "a.tar", unpacked);
    const ListingOptions options{.times = true, .xattrs = pax};
    EXPECT_EQ(DiffListings(ListTree(unpacked.path(), options), ListTree(original.path(), options)),
              "")
        << (pax ? "pax" : "gnu");
  }
}

TEST(LibarchiveOracle, ItsReaderMakesTheSameOfGnuTarsArchives) {
  setlocale(LC_ALL, "C.UTF-8");  // or it refuses names
  for (const char* flags : {"--format=gnu --sparse", "--format=pax --sparse", "--format=ustar"}) {
    TempDir original;
    TempDir unpacked;
    TempDir reference;
    TempDir scratch;
    TreeMaker(original.path(), 11, /*long_names=*/false, /*whole_seconds=*/true).Make(150);
    (void)!system(absl::StrCat("tar -c ", flags, " -f ", scratch / "a.tar", " -C ", original.path(),
                               " . 2>/dev/null")
                      .c_str());
    UnpackWithLibarchive(scratch / "a.tar", reference.path());
    UnpackWithDavit(scratch / "a.tar", unpacked);
    const ListingOptions options{.times = true, .xattrs = false};
    auto got = ListTree(unpacked.path(), options);
    auto want = ListTree(reference.path(), options);
    got.erase("");  // libarchive leaves the root's time as it comes
    want.erase("");
    EXPECT_EQ(DiffListings(got, want), "") << flags;
  }
}

}  // namespace
}  // namespace davit::images::unpack

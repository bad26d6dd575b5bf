"""Binds the Debian packages that tools/setup installs as external repositories.

Their headers are in the compiler's own include path, so a target only carries what must be linked.
Each repository is named after its library; README has a line of reason for each.
"""

# repository -> target -> what is linked. A target that ends in _static is for the static supervisor.
_PACKAGES = {
    "absl": {
        # Debian ships Abseil as shared libraries with inline namespaces off; the group keeps
        # the closure right without naming sixty archives.
        "absl": ["-labsl_status", "-labsl_statusor", "-labsl_synchronization", "-labsl_time",
                 "-labsl_time_zone", "-labsl_str_format_internal", "-labsl_strings",
                 "-labsl_strings_internal", "-labsl_cord", "-labsl_cord_internal",
                 "-labsl_cordz_info", "-labsl_raw_hash_set", "-labsl_hash", "-labsl_city",
                 "-labsl_low_level_hash", "-labsl_base", "-labsl_throw_delegate",
                 "-labsl_raw_logging_internal", "-labsl_spinlock_wait", "-labsl_int128",
                 "-labsl_graphcycles_internal", "-labsl_stacktrace", "-labsl_symbolize",
                 "-labsl_debugging_internal", "-labsl_demangle_internal",
                 "-labsl_malloc_internal", "-labsl_civil_time", "-labsl_strerror",
                 "-labsl_hashtablez_sampler", "-labsl_exponential_biased",
                 "-labsl_cordz_functions", "-labsl_bad_optional_access",
                 "-labsl_bad_variant_access", "-labsl_log_severity"],
    },
    "benchmark": {"benchmark": ["-lbenchmark"], "main": ["-lbenchmark_main", "-lbenchmark"]},
    "cli11": {"cli11": []},
    "curl": {"curl": ["-lcurl"]},
    "googletest": {
        "gtest": ["-lgmock", "-lgtest"],
        "gtest_main": ["-lgmock_main", "-lgmock", "-lgtest"],
    },
    "grpc": {"grpc++": ["-lgrpc++", "-lgrpc", "-lgpr"]},
    "isal": {"isal": ["-lisal"]},
    "libarchive": {"archive": ["-larchive"]},
    "libseccomp": {"seccomp": ["-lseccomp"]},
    "libsystemd": {"systemd": ["-lsystemd"]},
    "nlohmann_json": {"json": []},
    "openssl": {"crypto": ["-lcrypto"], "ssl": ["-lssl", "-lcrypto"]},
    "protobuf": {"protobuf": ["-lprotobuf"], "lite": ["-lprotobuf-lite"]},
    "spdlog": {"spdlog": ["-lspdlog", "-lfmt"]},
    "sqlite": {"sqlite3": ["-lsqlite3"]},
    "tomlplusplus": {"tomlplusplus": []},
    "zlib": {"z": ["-lz"]},
    "zstd": {"zstd": ["-lzstd"]},
}

_DEFINES = {
    # Debian builds spdlog as a shared library against the packaged fmt.
    "spdlog": ["SPDLOG_COMPILED_LIB", "SPDLOG_SHARED_LIB", "SPDLOG_FMT_EXTERNAL"],
}

def _build_file(name, targets):
    lines = ["package(default_visibility = [\"//visibility:public\"])"]
    for target, links in targets.items():
        lines += [
            "cc_library(",
            "    name = \"%s\"," % target,
            "    defines = %s," % _DEFINES.get(name, []),
            "    linkopts = %s," % links,
            ")",
        ]
    return "\n".join(lines)

def debian_packages():
    for name, targets in _PACKAGES.items():
        native.new_local_repository(
            name = name,
            build_file_content = _build_file(name, targets),
            path = "tools/bazel/debian",
        )

"""Macros that keep the BUILD files short: tests and generated protocol code."""

def davit_test(name, deps = [], tags = [], size = "small", **kwargs):
    """A GoogleTest binary with the house's defaults. Tests that need root carry the tag `root`."""
    native.cc_test(
        name = name,
        size = size,
        tags = tags,
        deps = deps + ["@googletest//:gtest_main", "@absl"],
        **kwargs
    )

def davit_proto_library(name, src, grpc = False, lite = False, imports = [], visibility = None):
    """C++ for one .proto file, made by Debian's protoc.

    Args:
      name: the cc_library's name.
      src: the .proto file, in this package.
      grpc: also generate the gRPC service, as <name>_grpc.
      lite: link protobuf-lite only (the file must say optimize_for = LITE_RUNTIME).
      imports: the names of the rules of this package whose files it imports.
      visibility: who may depend on it.
    """
    base = src[:-len(".proto")]
    native.genrule(
        name = name + "_gen",
        srcs = [src] + [i + ".proto" for i in imports],
        outs = [base + ".pb.h", base + ".pb.cc"],
        cmd = "/usr/bin/protoc -I. --cpp_out=$(GENDIR) $(location " + src + ")",
    )
    native.cc_library(
        name = name,
        srcs = [base + ".pb.cc"],
        hdrs = [base + ".pb.h"],
        copts = ["-Wno-all", "-Wno-extra", "-g0"],
        visibility = visibility,
        deps = ["@protobuf//:lite" if lite else "@protobuf"] + [":" + i for i in imports],
    )
    if grpc:
        native.genrule(
            name = name + "_grpc_gen",
            srcs = [src],
            outs = [base + ".grpc.pb.h", base + ".grpc.pb.cc"],
            cmd = "/usr/bin/protoc -I. --grpc_out=$(GENDIR) " +
                  "--plugin=protoc-gen-grpc=/usr/bin/grpc_cpp_plugin $(SRCS)",
        )
        native.cc_library(
            name = name + "_grpc",
            srcs = [base + ".grpc.pb.cc"],
            hdrs = [base + ".grpc.pb.h"],
            copts = ["-Wno-all", "-Wno-extra", "-g0"],
            visibility = visibility,
            deps = [":" + name, "@grpc//:grpc++"],
        )

def davit_fuzzer(name, srcs, deps = [], size = "small", tags = [], copts = [], **kwargs):
    """A fuzzing entry point (runtime/sys/fuzzing/fuzzer.h).

    Makes <name>, which `tools/fuzz` builds with libFuzzer (manual: nothing else can link it), and
    <name>_test, which runs the entry point without an engine: over its seeds, damaged ones, and the
    files of fuzz_inputs/<name>/.
    """
    entry = name + "_entry"
    native.cc_library(
        name = entry,
        testonly = True,
        srcs = srcs,
        alwayslink = True,
        copts = copts,
        deps = deps + ["//runtime/sys/fuzzing:fuzzer", "@absl"],
        **kwargs
    )
    davit_test(
        name = name + "_test",
        size = size,
        data = native.glob(["fuzz_inputs/" + name + "/*"]),
        tags = tags,
        deps = [":" + entry, "//runtime/sys/fuzzing:replay"],
    )
    native.cc_binary(
        name = name,
        testonly = True,
        linkopts = ["-fsanitize=fuzzer"],
        tags = ["fuzzer", "manual"],
        deps = [":" + entry, "//runtime/sys/fuzzing:seeds", "@absl"],
    )

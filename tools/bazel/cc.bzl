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

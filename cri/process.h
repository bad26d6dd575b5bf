#ifndef DAVIT_CRI_PROCESS_H_
#define DAVIT_CRI_PROCESS_H_

#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "images/image.h"

namespace davit::cri {

// What a container is asked to run, beside what its image says.
struct ProcessRequest {
  std::vector<std::string> command;
  std::vector<std::string> args;
  std::string working_dir;
  std::vector<std::pair<std::string, std::string>> envs;  // values are bytes
  bool tty = false;
  std::string hostname;
  std::string home;
};

// The command line: a command replaces the image's entrypoint and its CMD, arguments replace the
// CMD only. InvalidArgument if nothing is left, or for NUL bytes.
absl::StatusOr<std::vector<std::string>> BuildArgs(const ProcessRequest& request,
                                                   const images::ImageConfig& image);

// The environment, each name once: a default PATH, TERM for a terminal, HOSTNAME, HOME; over them
// the image's; over that the request's. Entries of the image without a name are dropped; a name of
// the request that is empty or holds '=' or NUL, or a value with NUL, is InvalidArgument.
absl::StatusOr<std::vector<std::string>> BuildEnvironment(const ProcessRequest& request,
                                                          const images::ImageConfig& image);

// The request's directory, else the image's, else "/". InvalidArgument for a relative one in the
// request.
absl::StatusOr<std::string> ChooseWorkingDir(const ProcessRequest& request,
                                             const images::ImageConfig& image);

}  // namespace davit::cri

#endif  // DAVIT_CRI_PROCESS_H_

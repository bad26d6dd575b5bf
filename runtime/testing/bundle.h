#ifndef DAVIT_RUNTIME_TESTING_BUNDLE_H_
#define DAVIT_RUNTIME_TESTING_BUNDLE_H_

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "runtime/cgroup/group.h"
#include "runtime/container.h"
#include "runtime/spec/spec.h"
#include "runtime/sys/unique_fd.h"

namespace davit::runtime::testing {

// Output of the probe: the text below "## <command>".
using Sections = std::map<std::string, std::string>;
Sections ParseSections(const std::string& output);

// The first line of `text` that begins with `prefix`; "" if there is none.
std::string Line(const std::string& text, absl::string_view prefix);
// The line of a mountinfo for a mount point; the last one covers the others.
std::string MountLine(const std::string& mountinfo, absl::string_view point);

// What a leak would change: counted before and after. Mounts are those made since the first Bundle,
// which gives the process its own mount namespace.
struct Residue {
  std::vector<std::string> mounts;
  std::vector<std::string> cgroups;
  std::vector<std::string> children;
  std::vector<std::string> fds;
  bool operator==(const Residue&) const = default;
  std::string ToString() const;
};

// A scratch directory with a rootfs that holds the probe at /bin/probe, an overlay's directories
// above it, and a cgroup of its own; all removed at the end. Containers made of it must be gone by
// then.
class Bundle {
 public:
  Bundle();
  ~Bundle();

  const std::string& dir() const { return dir_; }
  std::string rootfs() const { return dir_ + "/rootfs"; }
  // The group that containers are put below: "/davit-test-<pid>-<n>".
  const std::string& group() const { return group_; }
  const cgroup::Layout& layout() const { return groups_->layout(); }
  // Where a container with a cgroup mount sees the root of its group for a controller.
  std::string CgroupInside(absl::string_view controller) const;

  // The specification that the kubelet's containers have: own pid, mount, ipc, uts, network and
  // cgroup namespaces, the usual mounts, masks and read-only paths, fourteen capabilities.
  spec::Spec DefaultSpec() const;
  // Commands for the probe.
  static std::vector<std::string> Probe(const std::vector<std::vector<std::string>>& commands);

  // Features, ceilings and cgroups for this machine; an overlay over the rootfs with a fresh upper
  // directory.
  Container::Options Options(const spec::Spec& spec);

  // Creates and starts a container, collects its output, waits and deletes it. Fails the test if
  // any of it fails.
  std::string Run(const Container::Options& options);
  std::string Run(const spec::Spec& spec) { return Run(Options(spec)); }
  Sections RunProbe(spec::Spec spec, const std::vector<std::vector<std::string>>& commands);

  Residue Count() const;

 private:
  std::string dir_;
  std::string group_;
  std::unique_ptr<cgroup::Groups> groups_;
  int next_ = 0;
};

// A pipe; read everything from its end once the writers are gone.
struct Pipe {
  sys::UniqueFd read_end;
  sys::UniqueFd write_end;
  Pipe();
  std::string ReadAll();
};

// A created and started container whose payload waits for the end of its standard input.
struct Running {
  std::unique_ptr<Container> container;
  Pipe in;
  Pipe out;
};
// Runs `commands` first. On failure the test has failed and `running->container` is null.
void StartWaiting(const Container::Options& options, Running* running,
                  std::vector<std::vector<std::string>> commands = {});

}  // namespace davit::runtime::testing

#endif  // DAVIT_RUNTIME_TESTING_BUNDLE_H_

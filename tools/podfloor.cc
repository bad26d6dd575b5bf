// The floor of a pod: a program that makes only the system calls that a pod with one container
// cannot do without, in the same two processes as davitd and davit-pod, and times them. What a
// runtime takes more than this is its own. `tools/bench pods` runs it beside the runtime.
//
// Usage: podfloor [PODS]        needs root, a static /bin/busybox, and Linux >= 6.1
//
// One process plays the daemon and sends one-byte requests over a socket to the other, the
// supervisor of a pod. The container has mount, pid and cgroup namespaces of its own; the pod ipc,
// uts and, in the second round, network. cgroups are made in every hierarchy of the machine and
// joined by the container itself: through `tasks` in v1 (no RCU grace period, unlike cgroup.procs),
// by CLONE_INTO_CGROUP in v2.
#include <dirent.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>
#include <vector>

namespace {

[[noreturn]] void Die(const char* doing) {
  dprintf(2, "podfloor: %s: %s\n", doing, strerror(errno));
  _exit(1);
}

int Must(int result, const char* doing) {
  if (result < 0) Die(doing);
  return result;
}

void Write(int directory, const char* name, const std::string& text) {
  int fd = openat(directory, name, O_WRONLY | O_CLOEXEC);
  if (fd < 0) return;  // not every hierarchy has every file
  if (write(fd, text.data(), text.size()) < 0) Die(name);
  close(fd);
}

// --- cgroups

struct Hierarchy {
  std::string path;  // of its mount
  std::string name;  // "memory", "systemd", "unified"
  bool unified;
};

bool Exists(const std::string& path) { return access(path.c_str(), F_OK) == 0; }

std::vector<Hierarchy> Hierarchies() {
  const std::string top = "/sys/fs/cgroup";
  if (Exists(top + "/cgroup.controllers")) return {{top, "unified", true}};
  std::vector<Hierarchy> found;
  DIR* directory = opendir(top.c_str());
  if (directory == nullptr) Die("open /sys/fs/cgroup");
  while (dirent* entry = readdir(directory)) {
    if (entry->d_type != DT_DIR || entry->d_name[0] == '.') continue;
    std::string path = top + "/" + entry->d_name;
    found.push_back({path, entry->d_name, Exists(path + "/cgroup.controllers")});
  }
  closedir(directory);
  return found;
}

const char kParent[] = "/davit-podfloor";

void MakeParents(const std::vector<Hierarchy>& hierarchies) {
  for (const Hierarchy& h : hierarchies) {
    mkdir((h.path + kParent).c_str(), 0755);
    int fd = Must(open((h.path + kParent).c_str(), O_PATH | O_CLOEXEC), "open a cgroup");
    if (h.name.find("cpuset") != std::string::npos) {
      for (const char* name : {"cpuset.cpus", "cpuset.mems"}) {
        char text[256];
        int from = Must(open((h.path + "/" + name).c_str(), O_RDONLY | O_CLOEXEC), name);
        ssize_t length = read(from, text, sizeof text);
        close(from);
        Write(fd, name, std::string(text, std::max<ssize_t>(length, 0)));
      }
      Write(fd, "cgroup.clone_children", "1");
    }
    close(fd);
  }
}

void RemoveParents(const std::vector<Hierarchy>& hierarchies) {
  for (const Hierarchy& h : hierarchies) rmdir((h.path + kParent).c_str());
}

// --- the container's side of clone3

int Mount(const char* type, std::initializer_list<std::pair<const char*, const char*>> options,
          unsigned attributes) {
  int context = Must(fsopen(type, FSOPEN_CLOEXEC), type);
  for (auto [key, value] : options) {
    if (value == nullptr) {
      Must(fsconfig(context, FSCONFIG_SET_FLAG, key, nullptr, 0), key);
    } else {
      Must(fsconfig(context, FSCONFIG_SET_STRING, key, value, 0), key);
    }
  }
  Must(fsconfig(context, FSCONFIG_CMD_CREATE, nullptr, nullptr, 0), type);
  int mount = Must(fsmount(context, FSMOUNT_CLOEXEC, attributes), type);
  close(context);
  return mount;
}

void Attach(int mount, int directory, const char* path) {
  Must(move_mount(mount, "", directory, path, MOVE_MOUNT_F_EMPTY_PATH), path);
  close(mount);
}

constexpr unsigned kSafe = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC;

void MakeDev(int root) {
  int dev = Mount("tmpfs", {{"mode", "755"}, {"size", "65536k"}}, MOUNT_ATTR_NOSUID);
  struct Node {
    const char* name;
    int minor_of_1;
  };
  for (Node node :
       {Node{"null", 3}, Node{"zero", 5}, Node{"full", 7}, Node{"random", 8}, Node{"urandom", 9}}) {
    Must(mknodat(dev, node.name, S_IFCHR | 0666, (1 << 8) | node.minor_of_1), node.name);
  }
  Must(mknodat(dev, "tty", S_IFCHR | 0666, 5 << 8), "tty");
  Must(symlinkat("/proc/self/fd", dev, "fd"), "fd");
  Must(symlinkat("/proc/self/fd/0", dev, "stdin"), "stdin");
  Must(symlinkat("/proc/self/fd/1", dev, "stdout"), "stdout");
  Must(symlinkat("/proc/self/fd/2", dev, "stderr"), "stderr");
  Must(symlinkat("pts/ptmx", dev, "ptmx"), "ptmx");
  for (const char* name : {"pts", "shm", "mqueue"}) mkdirat(dev, name, 0755);
  Attach(Mount("devpts", {{"newinstance", nullptr}}, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC), dev,
         "pts");
  Attach(Mount("tmpfs", {{"mode", "1777"}}, kSafe), dev, "shm");
  Attach(Mount("mqueue", {}, kSafe), dev, "mqueue");
  Attach(dev, root, "dev");
}

void MountCgroups(int root, const std::vector<Hierarchy>& hierarchies) {
  if (hierarchies.size() == 1) {
    Attach(Mount("cgroup2", {}, kSafe), root, "sys/fs/cgroup");
    return;
  }
  int top = Mount("tmpfs", {{"mode", "755"}}, kSafe);
  for (const Hierarchy& h : hierarchies) {
    mkdirat(top, h.name.c_str(), 0755);
    int mount = h.unified             ? Mount("cgroup2", {}, kSafe)
                : h.name == "systemd" ? Mount("cgroup", {{"name", "systemd"}}, kSafe)
                                      : Mount("cgroup", {{h.name.c_str(), nullptr}}, kSafe);
    Attach(mount, top, h.name.c_str());
  }
  Attach(top, root, "sys/fs/cgroup");
}

// Makes a path of the container's own proc or sys read-only, or hides a file behind /dev/null.
void Protect(const char* path, bool hide) {
  int target = open(path, O_PATH | O_CLOEXEC);
  if (target < 0) return;
  unsigned flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | (hide ? 0 : AT_RECURSIVE);
  int mount = Must(open_tree(AT_FDCWD, hide ? "dev/null" : path, flags), path);
  if (!hide) {
    mount_attr attributes = {};
    attributes.attr_set = MOUNT_ATTR_RDONLY;
    Must(mount_setattr(mount, "", AT_EMPTY_PATH | AT_RECURSIVE, &attributes, sizeof attributes),
         path);
  }
  Must(move_mount(mount, "", target, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH), path);
  close(mount);
  close(target);
}

// Capabilities of a usual container, no new privileges, and a filter as long as a short profile.
void Confine() {
  constexpr uint32_t kKept = 0xa80425fb;
  for (int c = 0; c <= CAP_LAST_CAP; c++) {
    if (c >= 32 || (kKept >> c & 1) == 0) prctl(PR_CAPBSET_DROP, c, 0, 0, 0);
  }
  __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct data[2] = {{kKept, kKept, 0}, {0, 0, 0}};
  Must(syscall(SYS_capset, &header, data), "capset");
  Must(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs");
  static sock_filter filter[66];
  size_t n = 0;
  filter[n++] = BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0);
  while (n < 65) {
    filter[n] = BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 1000 + static_cast<unsigned>(n), 0, 0);
    n++;
  }
  filter[n++] = BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
  sock_fprog program = {static_cast<uint16_t>(n), filter};
  Must(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program), "seccomp");
}

struct Container {
  std::vector<int> cgroups;  // one for each hierarchy, O_PATH
  int root = -1;             // detached overlay
  int kept = -1;             // its clone, until removal
  int start = -1;            // written to: go
  int ready = -1;            // read from: one byte when created; end of file when executed
  int pid = -1;
  int pidfd = -1;
};

void JoinV1(const std::vector<Hierarchy>& hierarchies, const std::vector<int>& groups) {
  for (size_t i = 0; i < groups.size(); i++) {
    if (!hierarchies[i].unified) Write(groups[i], "tasks", "0");
  }
}

[[noreturn]] void Execute(const char* name, const char* argument) {
  const char* argv[] = {name, argument, nullptr};
  const char* environment[] = {"PATH=/bin", nullptr};
  execve("/bin/busybox", const_cast<char**>(argv), const_cast<char**>(environment));
  Die("execute /bin/busybox");
}

[[noreturn]] void RunContainer(const std::vector<Hierarchy>& hierarchies, const Container& c,
                               int ready, int start) {
  Must(mount(nullptr, "/", nullptr, MS_REC | MS_SLAVE, nullptr), "make the mounts slaves");
  JoinV1(hierarchies, c.cgroups);
  Must(unshare(CLONE_NEWCGROUP), "unshare the cgroup namespace");
  Attach(Mount("proc", {}, kSafe), c.root, "proc");
  Attach(Mount("sysfs", {}, kSafe | MOUNT_ATTR_RDONLY), c.root, "sys");
  MakeDev(c.root);
  MountCgroups(c.root, hierarchies);
  Must(move_mount(c.root, "", AT_FDCWD, "/tmp", MOVE_MOUNT_F_EMPTY_PATH), "attach the root");
  Must(fchdir(c.root), "enter the root");
  Must(syscall(SYS_pivot_root, ".", "."), "pivot_root");
  umount2(".", MNT_DETACH);
  Must(chdir("/"), "chdir");
  for (const char* path : {"proc/bus", "proc/fs", "proc/irq", "proc/sys", "proc/sysrq-trigger"}) {
    Protect(path, false);
  }
  for (const char* path : {"proc/kcore", "proc/keys", "proc/timer_list", "proc/interrupts"}) {
    Protect(path, true);
  }
  setsid();
  char byte = 'r';
  if (write(ready, &byte, 1) != 1 || read(start, &byte, 1) != 1) _exit(0);
  dup3(ready, 3, O_CLOEXEC);
  close_range(4, ~0u, 0);
  Confine();
  Execute("sleep", "100000");
}

// --- the supervisor

struct Supervisor {
  std::vector<Hierarchy> hierarchies;
  std::string base, id;
  std::vector<int> parents, groups;  // of the pod, O_PATH
  Container container;
  int own_pid_namespace = -1;

  int Clone(uint64_t flags, int into, int* pidfd) {
    clone_args args = {};
    args.flags = flags | CLONE_PIDFD;
    args.pidfd = reinterpret_cast<uint64_t>(pidfd);
    args.exit_signal = SIGCHLD;
    if (into >= 0) {
      args.flags |= CLONE_INTO_CGROUP;
      args.cgroup = static_cast<uint64_t>(into);
    }
    return static_cast<int>(syscall(SYS_clone3, &args, sizeof args));
  }

  int UnifiedGroup() const {
    for (size_t i = 0; i < hierarchies.size(); i++) {
      if (hierarchies[i].unified) return container.cgroups[i];
    }
    return -1;
  }

  void MakePod(bool network) {
    Must(unshare(CLONE_NEWIPC | CLONE_NEWUTS | (network ? CLONE_NEWNET : 0)), "unshare");
    Must(sethostname("pod", 3), "sethostname");
    for (const Hierarchy& h : hierarchies) {
      parents.push_back(
          Must(open((h.path + kParent).c_str(), O_PATH | O_CLOEXEC), "open a cgroup"));
      Must(mkdirat(parents.back(), id.c_str(), 0755), "make the pod's cgroup");
      groups.push_back(Must(openat(parents.back(), id.c_str(), O_PATH | O_CLOEXEC), "open it"));
    }
  }

  void CreateContainer() {
    const std::string dir = base + "/" + id;
    Must(mkdir(dir.c_str(), 0755), "make the container's directory");
    for (const char* name : {"/upper", "/work"}) mkdir((dir + name).c_str(), 0755);
    container.root = Mount("overlay",
                           {{"lowerdir", (base + "/lower").c_str()},
                            {"upperdir", (dir + "/upper").c_str()},
                            {"workdir", (dir + "/work").c_str()},
                            {"volatile", nullptr}},
                           0);
    container.kept =
        Must(open_tree(container.root, "", AT_EMPTY_PATH | OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC),
             "clone the root's mount");
    container.cgroups.clear();
    for (int group : groups) {
      mkdirat(group, "c", 0755);
      int fd = Must(openat(group, "c", O_PATH | O_CLOEXEC), "open the container's cgroup");
      Write(fd, "memory.limit_in_bytes", "134217728");
      Write(fd, "cpu.shares", "102");
      container.cgroups.push_back(fd);
    }
    int ready[2], start[2];
    if (pipe2(ready, O_CLOEXEC) < 0 || pipe2(start, O_CLOEXEC) < 0) Die("pipe2");
    container.pid =
        Must(Clone(CLONE_NEWNS | CLONE_NEWPID, UnifiedGroup(), &container.pidfd), "clone3");
    if (container.pid == 0) RunContainer(hierarchies, container, ready[1], start[0]);
    close(container.root);
    close(ready[1]);
    close(start[0]);
    container.ready = ready[0];
    container.start = start[1];
    char byte;
    if (read(container.ready, &byte, 1) != 1) Die("wait for the container");
  }

  void StartContainer() {
    char byte = 's';
    if (write(container.start, &byte, 1) != 1) Die("start");
    if (read(container.ready, &byte, 1) != 0) Die("the payload was not executed");
    close(container.ready);
    close(container.start);
  }

  void Exec() {
    if (own_pid_namespace < 0) {
      own_pid_namespace = Must(open("/proc/self/ns/pid", O_RDONLY | O_CLOEXEC), "open a namespace");
    }
    Must(setns(container.pidfd, CLONE_NEWPID), "setns");
    int pidfd = -1;
    int pid = Must(Clone(0, UnifiedGroup(), &pidfd), "clone3");
    if (pid == 0) {
      JoinV1(hierarchies, container.cgroups);
      Must(setns(container.pidfd, CLONE_NEWNS | CLONE_NEWCGROUP), "setns");
      close_range(3, ~0u, 0);
      Confine();
      Execute("true", nullptr);
    }
    Must(setns(own_pid_namespace, CLONE_NEWPID), "setns");
    int status = 0;
    waitpid(pid, &status, 0);
    close(pidfd);
    if (status != 0) Die("exec true");
  }

  void KillContainer() {
    Must(syscall(SYS_pidfd_send_signal, container.pidfd, SIGKILL, nullptr, 0), "kill");
    waitpid(container.pid, nullptr, 0);
    close(container.pidfd);
  }

  static void RemoveGroup(int parent, const char* name) {
    while (unlinkat(parent, name, AT_REMOVEDIR) < 0 && errno == EBUSY) sched_yield();
  }

  void RemoveContainer() {
    close(container.kept);
    for (size_t i = 0; i < groups.size(); i++) {
      RemoveGroup(groups[i], "c");
      close(container.cgroups[i]);
    }
    const std::string dir = base + "/" + id;
    unlink((dir + "/work/work/incompat/volatile/dirty").c_str());
    for (const char* name : {"/work/work/incompat/volatile", "/work/work/incompat", "/work/work",
                             "/work", "/upper", ""}) {
      rmdir((dir + name).c_str());
    }
  }

  void RemovePod() {
    for (int parent : parents) RemoveGroup(parent, id.c_str());
  }
};

// What the daemon asks for, in the order of a pod's life.
constexpr char kRequests[] = "PCSXKDQ";

int RunSupervisor(char** arguments) {
  Supervisor s;
  s.hierarchies = Hierarchies();
  s.base = arguments[2];
  s.id = arguments[3];
  const bool network = arguments[4][0] == '1';
  prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
  char request;
  while (read(3, &request, 1) == 1) {
    switch (request) {
      case 'P':
        s.MakePod(network);
        break;
      case 'C':
        s.CreateContainer();
        break;
      case 'S':
        s.StartContainer();
        break;
      case 'X':
        s.Exec();
        break;
      case 'K':
        s.KillContainer();
        break;
      case 'D':
        s.RemoveContainer();
        break;
      case 'Q':
        s.RemovePod();
        break;
    }
    if (write(3, &request, 1) != 1 || request == 'Q') break;
  }
  return 0;
}

// --- the daemon

using Clock = std::chrono::steady_clock;

int SealedSelf() {
  int from = Must(open("/proc/self/exe", O_RDONLY | O_CLOEXEC), "open itself");
  int memfd = Must(memfd_create("podfloor", MFD_CLOEXEC | MFD_ALLOW_SEALING), "memfd_create");
  struct stat info;
  Must(fstat(from, &info), "fstat");
  for (off_t offset = 0; offset < info.st_size;) {
    Must(sendfile(memfd, from, &offset, info.st_size - offset), "copy itself");
  }
  fcntl(memfd, F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE);
  close(from);
  return Must(fcntl(memfd, F_DUPFD_CLOEXEC, 20), "dup");
}

pid_t StartSupervisor(int program, int socket, const char* base, const std::string& id,
                      bool network) {
  const char* argv[] = {"podfloor", "supervisor", base, id.c_str(), network ? "1" : "0", nullptr};
  const char* environment[] = {nullptr};
  pid_t pid = vfork();
  if (pid == 0) {
    dup2(socket, 3);
    syscall(SYS_execveat, program, "", argv, environment, AT_EMPTY_PATH);
    _exit(127);
  }
  return Must(pid, "vfork");
}

double Ask(int socket, char request) {
  auto began = Clock::now();
  char answer;
  if (write(socket, &request, 1) != 1 || read(socket, &answer, 1) != 1) {
    dprintf(2, "podfloor: the supervisor ended at request %c\n", request);
    exit(1);
  }
  return std::chrono::duration<double, std::milli>(Clock::now() - began).count();
}

std::map<std::string, double> OnePod(int program, const char* base, const std::string& id,
                                     bool network) {
  std::map<std::string, double> took;
  auto began = Clock::now();
  int sockets[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets) < 0) Die("socketpair");
  pid_t pid = StartSupervisor(program, sockets[1], base, id, network);
  close(sockets[1]);
  Ask(sockets[0], kRequests[0]);
  took["RunPodSandbox"] = std::chrono::duration<double, std::milli>(Clock::now() - began).count();
  took["CreateContainer"] = Ask(sockets[0], 'C');
  took["StartContainer"] = Ask(sockets[0], 'S');
  Ask(sockets[0], 'X');
  took["ExecSync true"] = Ask(sockets[0], 'X');
  took["StopContainer"] = Ask(sockets[0], 'K');
  took["RemoveContainer"] = Ask(sockets[0], 'D');
  took["RemovePodSandbox"] = Ask(sockets[0], 'Q');
  waitpid(pid, nullptr, 0);
  close(sockets[0]);
  took["= pod and container started"] =
      took["RunPodSandbox"] + took["CreateContainer"] + took["StartContainer"];
  took["= all gone"] = took["StopContainer"] + took["RemoveContainer"] + took["RemovePodSandbox"];
  return took;
}

void MakeLower(const std::string& lower) {
  Must(mkdir(lower.c_str(), 0755), "make a root file system");
  for (const char* name : {"bin", "proc", "sys", "dev", "tmp", "etc"}) {
    mkdir((lower + "/" + name).c_str(), 0755);
  }
  int from = Must(open("/bin/busybox", O_RDONLY | O_CLOEXEC), "open /bin/busybox");
  int to =
      Must(open((lower + "/bin/busybox").c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0755), "copy");
  while (Must(sendfile(to, from, nullptr, 1 << 20), "copy busybox") > 0) {
  }
  close(from);
  close(to);
}

void RemoveLower(const std::string& lower) {
  unlink((lower + "/bin/busybox").c_str());
  for (const char* name : {"/bin", "/proc", "/sys", "/dev", "/tmp", "/etc", ""}) {
    rmdir((lower + name).c_str());
  }
}

void Report(bool network, const std::vector<std::map<std::string, double>>& pods) {
  printf("%-30s%9s%9s%9s   ms, %zu pods\n", network ? "new network namespace" : "host network",
         "p50", "p90", "p99", pods.size());
  for (const char* row :
       {"RunPodSandbox", "CreateContainer", "StartContainer", "= pod and container started",
        "StopContainer", "RemoveContainer", "RemovePodSandbox", "= all gone", "ExecSync true"}) {
    std::vector<double> values;
    values.reserve(pods.size());
    for (const auto& pod : pods) values.push_back(pod.at(row));
    std::sort(values.begin(), values.end());
    auto at = [&values](size_t p) { return values[(values.size() - 1) * p / 100]; };
    printf("  %-28s%9.2f%9.2f%9.2f\n", row, at(50), at(90), at(99));
  }
}

int RunDaemon(size_t pods) {
  signal(SIGPIPE, SIG_IGN);
  const std::vector<Hierarchy> hierarchies = Hierarchies();
  char base[] = "/tmp/podfloor-XXXXXX";
  if (mkdtemp(base) == nullptr) Die("make a directory");
  MakeLower(std::string(base) + "/lower");
  MakeParents(hierarchies);
  int program = SealedSelf();
  constexpr size_t kWarmUp = 5;
  for (bool network : {false, true}) {
    std::vector<std::map<std::string, double>> measured;
    for (size_t i = 0; i < kWarmUp + pods; i++) {
      auto pod = OnePod(program, base, "p" + std::to_string(i), network);
      if (i >= kWarmUp) measured.push_back(std::move(pod));
    }
    Report(network, measured);
  }
  RemoveParents(hierarchies);
  RemoveLower(std::string(base) + "/lower");
  rmdir(base);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc > 4 && strcmp(argv[1], "supervisor") == 0) return RunSupervisor(argv);
  int pods = argc > 1 ? atoi(argv[1]) : 40;
  if (pods < 1) {
    fprintf(stderr, "usage: podfloor [PODS]\n");
    return 2;
  }
  return RunDaemon(static_cast<size_t>(pods));
}

// Runs inside a container under test and tells what it sees there. Static, so that a rootfs needs
// nothing else. Commands are separated by "--"; the output of each begins with "## <command>".

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#include <string>
#include <vector>

extern char** environ;

namespace {

using Args = std::vector<std::string>;

std::string At(const Args& args, size_t i) { return i < args.size() ? args[i] : ""; }

void Result(int value) { printf("%s\n", value < 0 ? strerrorname_np(errno) : "ok"); }

void Cat(const Args& args) {
  const int fd = open(At(args, 1).c_str(), O_RDONLY);
  if (fd < 0) return Result(-1);
  char buffer[4096];
  ssize_t count;
  while ((count = read(fd, buffer, sizeof(buffer))) > 0) fwrite(buffer, 1, count, stdout);
  if (count < 0) Result(-1);
  close(fd);
  printf("\n");
}

void Stat(const Args& args) {
  struct stat st;
  if (lstat(At(args, 1).c_str(), &st) != 0) return Result(-1);
  const char* type = S_ISDIR(st.st_mode)    ? "dir"
                     : S_ISCHR(st.st_mode)  ? "char"
                     : S_ISBLK(st.st_mode)  ? "block"
                     : S_ISLNK(st.st_mode)  ? "link"
                     : S_ISFIFO(st.st_mode) ? "fifo"
                     : S_ISREG(st.st_mode)  ? "file"
                                            : "other";
  printf("%s %o %u:%u uid=%u gid=%u size=%lld\n", type, st.st_mode & 07777u, major(st.st_rdev),
         minor(st.st_rdev), st.st_uid, st.st_gid, static_cast<long long>(st.st_size));
}

void Write(const Args& args) {
  const int fd = open(At(args, 1).c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
  if (fd < 0) return Result(-1);
  const std::string data = At(args, 2);
  Result(static_cast<int>(write(fd, data.data(), data.size())));
  close(fd);
}

void List(const Args& args) {
  DIR* dir = opendir(At(args, 1).c_str());
  if (dir == nullptr) return Result(-1);
  while (const dirent* entry = readdir(dir)) {
    if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0) {
      printf("%s\n", entry->d_name);
    }
  }
  closedir(dir);
}

void Fds() {
  for (int fd = 0; fd < 1024; ++fd) {
    if (fcntl(fd, F_GETFD) >= 0) printf("%d ", fd);
  }
  printf("\n");
}

void Link(const Args& args) {
  char target[4096];
  const ssize_t size = readlink(At(args, 1).c_str(), target, sizeof(target));
  if (size < 0) return Result(-1);
  printf("%.*s\n", static_cast<int>(size), target);
}

void Limit(const Args& args) {
  rlimit limit;
  if (getrlimit(atoi(At(args, 1).c_str()), &limit) != 0) return Result(-1);
  printf("%llu %llu\n", static_cast<unsigned long long>(limit.rlim_cur),
         static_cast<unsigned long long>(limit.rlim_max));
}

void Groups() {
  gid_t groups[64];
  const int count = getgroups(64, groups);
  printf("%u %u %u %u:", getuid(), geteuid(), getgid(), getegid());
  for (int i = 0; i < count; ++i) printf(" %u", groups[i]);
  printf("\n");
}

void Names() {
  utsname name;
  uname(&name);
  printf("%s %s\n", name.nodename, name.domainname);
}

void Signals() {
  std::string ignored;
  for (int signal = 1; signal < 32; ++signal) {
    struct sigaction action;
    if (sigaction(signal, nullptr, &action) == 0 && action.sa_handler != SIG_DFL) {
      ignored += std::to_string(signal) + " ";
    }
  }
  sigset_t mask;
  sigprocmask(SIG_BLOCK, nullptr, &mask);
  for (int signal = 1; signal < 32; ++signal) {
    if (sigismember(&mask, signal) == 1) ignored += "blocked:" + std::to_string(signal) + " ";
  }
  printf("[%s]\n", ignored.c_str());
}

void Terminal() {
  winsize size = {};
  ioctl(0, TIOCGWINSZ, &size);
  const int tty = open("/dev/tty", O_RDWR);
  printf("%d%d%d %s rows=%d cols=%d tty=%s\n", isatty(0), isatty(1), isatty(2), ttyname(0),
         size.ws_row, size.ws_col, tty >= 0 ? "ok" : strerrorname_np(errno));
}

int Run(const Args& args) {
  const std::string command = At(args, 0);
  if (command == "cat") {
    Cat(args);
  } else if (command == "stat") {
    Stat(args);
  } else if (command == "write") {
    Write(args);
  } else if (command == "ls") {
    List(args);
  } else if (command == "fds") {
    Fds();
  } else if (command == "readlink") {
    Link(args);
  } else if (command == "rlimit") {
    Limit(args);
  } else if (command == "ids") {
    Groups();
  } else if (command == "names") {
    Names();
  } else if (command == "signals") {
    Signals();
  } else if (command == "terminal") {
    Terminal();
  } else if (command == "umask") {
    printf("%04o\n", umask(0));
  } else if (command == "cwd") {
    char path[4096];
    printf("%s\n", getcwd(path, sizeof(path)) != nullptr ? path : strerrorname_np(errno));
  } else if (command == "env") {
    for (char** entry = environ; *entry != nullptr; ++entry) printf("%s\n", *entry);
  } else if (command == "pid") {
    printf("%d %d %d\n", getpid(), getppid(), getsid(0));
  } else if (command == "mkdir") {
    Result(mkdir(At(args, 1).c_str(), 0755));
  } else if (command == "mknod") {
    Result(mknod(At(args, 1).c_str(), S_IFCHR | 0600, makedev(1, 3)));
  } else if (command == "open") {
    const int fd = open(At(args, 1).c_str(), O_RDONLY | O_NONBLOCK);
    Result(fd);
    if (fd >= 0) close(fd);
  } else if (command == "mount") {
    Result(mount("none", At(args, 1).c_str(), "tmpfs", 0, nullptr));
  } else if (command == "sethostname") {
    Result(sethostname("x", 1));
  } else if (command == "exec") {
    execl(At(args, 1).c_str(), At(args, 1).c_str(), nullptr);
    Result(-1);
  } else if (command == "spawn") {
    if (fork() == 0) {
      for (;;) pause();
    }
  } else if (command == "wait") {
    // Until standard input ends.
    char byte;
    fflush(stdout);
    while (read(0, &byte, 1) > 0) {
    }
  } else if (command == "pause") {
    fflush(stdout);
    for (;;) pause();
  } else if (command == "exit") {
    fflush(stdout);
    _exit(atoi(At(args, 1).c_str()));
  } else {
    return 1;
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  Args args;
  int result = 0;
  for (int i = 1; i <= argc; ++i) {
    if (i < argc && strcmp(argv[i], "--") != 0) {
      args.emplace_back(argv[i]);
      continue;
    }
    if (args.empty()) continue;
    printf("##");
    for (const std::string& arg : args) printf(" %s", arg.c_str());
    printf("\n");
    result |= Run(args);
    fflush(stdout);
    args.clear();
  }
  return result;
}

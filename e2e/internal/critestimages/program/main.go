// The one program inside the images of critestimages. What it does depends on the name that it is
// called by.
package main

import (
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

func main() {
	switch name := filepath.Base(os.Args[0]); {
	case name == "pgrep":
		pgrep()
	case name == "ipcs":
		ipcs()
	case name == "nnp":
		fmt.Printf("Effective uid: %d\n", os.Geteuid())
	case name == "httpd-foreground":
		fmt.Println("httpd -D FOREGROUND: serving on port 80")
		serve(":80")
	case strings.HasPrefix(os.Args[0], "nginx: master process"):
		os.WriteFile("/var/run/nginx.pid", []byte(fmt.Sprintln(os.Getpid())), 0o644)
		serve(os.Args[1])
	case name == "nginx":
		becomeNginx(":80")
	case name == "hostnet-nginx":
		becomeNginx(":12003")
	default:
		pause()
	}
}

// becomeNginx gives the process the title that nginx has: only execve changes what ps shows.
func becomeNginx(address string) {
	err := syscall.Exec("/proc/self/exe", []string{"nginx: master process nginx -g daemon off;", address}, os.Environ())
	fail(err)
}

func serve(address string) {
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT, syscall.SIGQUIT)
	go func() {
		<-stop
		os.Exit(0)
	}()
	fail(http.ListenAndServe(address, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(w, "Welcome to nginx!")
	})))
}

func pause() {
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	<-stop
}

func pgrep() {
	found := false
	files, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, file := range files {
		stat, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		text := string(stat)
		open, end := strings.Index(text, "("), strings.LastIndex(text, ")")
		if pid, _ := strconv.Atoi(strings.TrimSpace(text[:open])); pid != os.Getpid() && len(os.Args) > 1 &&
			strings.Contains(text[open+1:end], os.Args[len(os.Args)-1]) {
			fmt.Println(pid)
			found = true
		}
	}
	if !found {
		os.Exit(1)
	}
}

// ipcs lists shared memory segments with their keys and ids first, as `ipcs -m` does.
func ipcs() {
	table, err := os.ReadFile("/proc/sysvipc/shm")
	fail(err)
	fmt.Print("\n------ Shared Memory Segments --------\nkey        shmid      owner      perms      bytes      nattch     status\n")
	for _, line := range strings.Split(strings.TrimSpace(string(table)), "\n")[1:] {
		f := strings.Fields(line)
		key, _ := strconv.ParseInt(f[0], 10, 64)
		fmt.Printf("0x%08x %-10s %-10s %-10s %-10s %-10s\n", uint32(key), f[1], f[7], f[2], f[3], f[6])
	}
}

func fail(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

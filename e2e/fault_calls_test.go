package e2e

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"

	"davit.dev/e2e/internal/daemon"
	"davit.dev/e2e/internal/faultcalls"
	"google.golang.org/grpc/codes"
)

// Operations whose system calls fail in turn, and whose they are.
var callers = []struct {
	operation string
	programs  []string
}{
	{"run pod", []string{"davitd", "davit-pod"}},
	{"create container", []string{"davitd", "davit-pod"}},
	{"start container", []string{"davitd", "davit-pod"}},
	{"remove container", []string{"davitd", "davit-pod"}},
	{"stop pod", []string{"davitd", "davit-pod"}},
	{"remove pod", []string{"davitd", "davit-pod"}},
	{"pull image", []string{"davitd", "davit-unpack"}},
	{"remove image", []string{"davitd"}},
}

func TestFaultsOfSystemCallsAreReportedAndLeaveNothing(t *testing.T) {
	directory := t.TempDir()
	injector, err := faultcalls.New(directory + "/listener")
	if err != nil {
		t.Fatal(err)
	}
	defer injector.Close()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	b := beginFaults(t, daemon.Options{Wrapper: []string{self}, Env: []string{injector.Environment()}})
	number := 0
	for _, caller := range callers {
		s := scenarios[caller.operation]
		// The second time: what is made once, such as a compiled profile, is there.
		var counts map[string]int
		for range 2 {
			a := s.attempt(b)
			counts = injector.Count(func() { b.must(a.act(), caller.operation) })
			b.must(a.remove(), "remove what was made")
		}
		var calls []string
		for call := range counts {
			calls = append(calls, call)
		}
		slices.Sort(calls)
		for _, call := range calls {
			program, name, _ := strings.Cut(call, " ")
			if !slices.Contains(caller.programs, program) {
				continue
			}
			for skip := range counts[call] {
				if number++; !allFaults() && number%61 != 0 {
					continue
				}
				b.try(s, fault{
					operation: caller.operation, step: call, kind: fmt.Sprintf("call %d: %v", skip+1, syscall.ENOMEM),
					mayPass: true, never: []codes.Code{codes.NotFound, codes.AlreadyExists, codes.InvalidArgument},
					arm:    func() { injector.Arm(program, name, skip, syscall.ENOMEM) },
					disarm: injector.Disarm,
				})
			}
		}
	}
}

package e2e

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"

	"davit.dev/e2e/internal/daemon"
)

func TestFaultsOfEachStepAreReportedAndLeaveNothing(t *testing.T) {
	b := beginFaults(t, daemon.Options{CNI: true})
	for number, step := range b.listSteps() {
		s, ok := scenarioOf(step.operation)
		if !ok {
			t.Errorf("no scenario reaches the operation %q", step.operation)
			continue
		}
		for turn, moment := range []string{"before", "after"} {
			if !allFaults() && number%2 != turn {
				continue
			}
			errno := []syscall.Errno{syscall.ENOSPC, syscall.EIO}[turn]
			f := b.order(step.operation, step.name, moment, "fail", int(errno))
			// Once the processes are signalled it is their end that answers.
			f.mayPass = step.operation == "stop container" && moment == "after"
			if !b.try(s, f) {
				b.fail(f, "the step was not reached")
			}
		}
	}
}

func TestFaultsOfEachOperationOfAPlanAreReportedAndLeaveNothing(t *testing.T) {
	b := beginFaults(t, daemon.Options{})
	stride := 1
	if !allFaults() {
		stride = 7
	}
	const most = 1000
	for number := 0; ; number += stride {
		f := b.order("plan of create container", fmt.Sprint(number), "before", "fail", int(syscall.EIO))
		// The last operations are carried out when the container is started.
		if !b.try(scenarios["create container"], f) {
			if number == 0 || number >= most {
				b.fail(f, "a plan has some operations, and not endlessly many")
			}
			return
		}
	}
}

// A CNI plugin that does what the test says, once, and otherwise hands on what it was given.
const faultPlugin = `#!/usr/bin/python3
import json, os, signal, sys, time
order = %q
command, me = os.environ["CNI_COMMAND"], os.path.basename(sys.argv[0])
config = json.load(sys.stdin)
words = open(order).read().split() if os.path.exists(order) else []
if words[:2] == [command, me]:
    os.remove(order)
    what = words[2]
    if what == "fail":
        print(json.dumps({"cniVersion": "1.0.0", "code": 11, "msg": "the plugin was told to fail"}))
        sys.exit(1)
    elif what == "silent":
        sys.exit(7)
    elif what == "garbage":
        print("this is { no JSON")
        sys.exit(0)
    elif what == "empty":
        sys.exit(0)
    elif what == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    elif what == "hang":
        time.sleep(1000)
    elif what == "flood":
        while True:
            os.write(1, b"x" * 65536)
if command == "ADD":
    print(json.dumps(config.get("prevResult", {"cniVersion": "1.0.0"})))
`

// installFaultPlugins puts a plugin before and one behind those of the network.
func (b *faultBench) installFaultPlugins() {
	bin := b.Dir + "/cnibin"
	b.must(os.MkdirAll(bin, 0o755), "make a directory of plugins")
	for _, name := range []string{"davit-first", "davit-last"} {
		b.must(os.WriteFile(bin+"/"+name, []byte(fmt.Sprintf(faultPlugin, b.Dir+"/cni-order")), 0o755), "write a plugin")
	}
	path := b.ConfDir + "/10-davit.conflist"
	data, err := os.ReadFile(path)
	b.must(err, "read the network's configuration")
	text := strings.TrimSpace(string(data))
	text = strings.Replace(text, `"plugins": [`, `"plugins": [ {"type": "davit-first"},`, 1)
	text = strings.TrimSuffix(text, "]}") + `, {"type": "davit-last"} ]}`
	b.must(os.WriteFile(path, []byte(text), 0o644), "write the network's configuration")
	b.must(b.WriteConfigCNI(fmt.Sprintf("bin_dirs = [%q, \"/usr/lib/cni\", \"/opt/cni/bin\"]\ntimeout_seconds = 15\n", bin)), "configure")
	b.must(b.Terminate(), "stop davitd")
	b.must(b.Start(), "start davitd")
}

func TestFaultsOfPluginsAreReportedAndLeaveNothing(t *testing.T) {
	b := beginFaults(t, daemon.Options{CNI: true})
	b.installFaultPlugins()
	b.before = b.Node().Take()
	whats := []string{"fail", "silent", "garbage", "empty", "killed", "hang", "flood"}
	for turn, command := range []string{"ADD", "DEL"} {
		for _, plugin := range []string{"davit-first", "davit-last"} {
			for _, what := range whats {
				if turn++; !allFaults() && turn%3 != 0 {
					continue
				}
				operation := "run pod"
				// What DEL prints is nobody's concern, and that a plugin of DEL has failed is said
				// by the stop; the removal goes on without it.
				if command == "DEL" {
					operation = "stop pod"
				}
				mayPass := command == "DEL" && (what == "garbage" || what == "empty" || what == "flood")
				order := b.Dir + "/cni-order"
				b.try(scenarios[operation], fault{
					operation: operation, step: command + " of " + plugin, kind: what, mayPass: mayPass,
					arm: func() {
						b.must(os.WriteFile(order, []byte(command+" "+plugin+" "+what+"\n"), 0o644), "order a fault")
					},
					disarm: func() bool { return os.Remove(order) != nil },
				})
			}
		}
	}
}

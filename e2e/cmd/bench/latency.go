package main

import (
	stdcontext "context"
	"fmt"
	"sort"
	"time"

	"davit.dev/e2e/internal/crikit"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// context for one call.
func context() stdcontext.Context {
	const limit = 2 * time.Minute
	ctx, cancel := stdcontext.WithTimeout(stdcontext.Background(), limit)
	time.AfterFunc(limit, cancel)
	return ctx
}

// samples of one quantity.
type samples []time.Duration

func (s samples) percentile(p int) float64 {
	if len(s) == 0 {
		return 0
	}
	sorted := append(samples{}, s...)
	sort.Slice(sorted, func(i, j int) bool { return sorted[i] < sorted[j] })
	return float64(sorted[(len(sorted)-1)*p/100].Microseconds()) / 1000
}

// The rows of the table, in the order of a pod's life.
var rows = []string{"RunPodSandbox", "CreateContainer", "StartContainer", "= pod and container started",
	"StopContainer", "RemoveContainer", "StopPodSandbox", "RemovePodSandbox", "= all gone",
	"ContainerStatus", "ListContainers", "ExecSync true"}

type table map[string]samples

// timed calls f after the idle gap, and adds how long it took.
func (b *bench) timed(t table, row string, f func() error) (time.Duration, error) {
	if b.gap > 0 {
		time.Sleep(b.gap)
	}
	began := time.Now()
	err := f()
	took := time.Since(began)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", row, err)
	}
	t[row] = append(t[row], took)
	return took, nil
}

func networkName(network cri.NamespaceMode) string {
	if network == cri.NamespaceMode_NODE {
		return "host network"
	}
	return "CNI"
}

func (b *bench) latencies(network cri.NamespaceMode) error {
	measured := table{}
	for i := range b.warmUp + b.pods {
		t := measured
		if i < b.warmUp {
			t = table{}
		}
		if err := b.onePod(t, network, i == b.warmUp+b.pods-1); err != nil {
			return err
		}
	}
	gap := "calls back to back"
	if b.gap > 0 {
		gap = fmt.Sprintf("%v idle before each call", b.gap)
	}
	fmt.Printf("%-30s%9s%9s%9s   ms, %d pods, %s\n", networkName(network), "p50", "p90", "p99", b.pods, gap)
	for _, row := range rows {
		if s := measured[row]; len(s) > 0 {
			fmt.Printf("  %-28s%9.2f%9.2f%9.2f\n", row, s.percentile(50), s.percentile(90), s.percentile(99))
		}
	}
	fmt.Println()
	return nil
}

// onePod measures the life of a pod. The last one also takes the ExecSync calls.
func (b *bench) onePod(t table, network cri.NamespaceMode, last bool) error {
	podConfig := crikit.Pod(crikit.Unique("bench"), b.logs, network)
	config := crikit.Container("main", b.image, "sleep", "100000")
	if err := crikit.MakeLogDirectories(podConfig, config); err != nil {
		return err
	}
	var pod, container string
	var sum time.Duration
	calls := []struct {
		row string
		f   func() error
	}{
		{"RunPodSandbox", func() error {
			r, err := b.runtime.RunPodSandbox(context(), &cri.RunPodSandboxRequest{Config: podConfig})
			pod = r.GetPodSandboxId()
			return err
		}},
		{"CreateContainer", func() error {
			r, err := b.runtime.CreateContainer(context(), &cri.CreateContainerRequest{PodSandboxId: pod, Config: config, SandboxConfig: podConfig})
			container = r.GetContainerId()
			return err
		}},
		{"StartContainer", func() error {
			_, err := b.runtime.StartContainer(context(), &cri.StartContainerRequest{ContainerId: container})
			return err
		}},
		{"= pod and container started", nil},
		{"ContainerStatus", func() error {
			_, err := b.runtime.ContainerStatus(context(), &cri.ContainerStatusRequest{ContainerId: container})
			return err
		}},
		{"ListContainers", func() error {
			_, err := b.runtime.ListContainers(context(), &cri.ListContainersRequest{})
			return err
		}},
		{"ExecSync true", nil},
		{"StopContainer", func() error {
			_, err := b.runtime.StopContainer(context(), &cri.StopContainerRequest{ContainerId: container})
			return err
		}},
		{"RemoveContainer", func() error {
			_, err := b.runtime.RemoveContainer(context(), &cri.RemoveContainerRequest{ContainerId: container})
			return err
		}},
		{"StopPodSandbox", func() error {
			_, err := b.runtime.StopPodSandbox(context(), &cri.StopPodSandboxRequest{PodSandboxId: pod})
			return err
		}},
		{"RemovePodSandbox", func() error {
			_, err := b.runtime.RemovePodSandbox(context(), &cri.RemovePodSandboxRequest{PodSandboxId: pod})
			return err
		}},
		{"= all gone", nil},
	}
	for _, call := range calls {
		if call.row == "ExecSync true" {
			if last {
				if err := b.measureExecs(t, container); err != nil {
					return err
				}
			}
			sum = 0
			continue
		}
		if call.f == nil {
			t[call.row], sum = append(t[call.row], sum), 0
			continue
		}
		took, err := b.timed(t, call.row, call.f)
		if err != nil {
			return err
		}
		sum += took
	}
	return nil
}

func (b *bench) measureExecs(t table, container string) error {
	call := func() error {
		r, err := b.runtime.ExecSync(context(), &cri.ExecSyncRequest{ContainerId: container, Cmd: []string{"true"}, Timeout: 10})
		if err == nil && r.ExitCode != 0 {
			err = fmt.Errorf("exit code %d: %s", r.ExitCode, r.Stderr)
		}
		return err
	}
	for i := range b.execs {
		row := t
		if i < b.execs/15 { // warm-up
			row = table{}
		}
		if _, err := b.timed(row, "ExecSync true", call); err != nil {
			return err
		}
	}
	return nil
}

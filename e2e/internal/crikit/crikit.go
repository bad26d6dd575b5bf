// Package crikit writes CRI requests as the kubelet sends them.
package crikit

import (
	"crypto/rand"
	"encoding/hex"
	"os"
	"path/filepath"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Unique is a name that no other pod has.
func Unique(prefix string) string {
	var bytes [4]byte
	rand.Read(bytes[:])
	return prefix + "-" + hex.EncodeToString(bytes[:])
}

// Pod is the configuration of a pod with a log directory, and each container's processes apart.
func Pod(name, logDirectory string, network cri.NamespaceMode) *cri.PodSandboxConfig {
	config := &cri.PodSandboxConfig{
		Metadata:     &cri.PodSandboxMetadata{Name: name, Namespace: "default", Uid: "uid-" + name, Attempt: 0},
		LogDirectory: logDirectory,
		Labels: map[string]string{"io.kubernetes.pod.name": name, "io.kubernetes.pod.namespace": "default",
			"io.kubernetes.pod.uid": "uid-" + name},
		Annotations: map[string]string{"kubernetes.io/config.source": "api"},
		DnsConfig:   &cri.DNSConfig{Servers: []string{"10.96.0.10"}, Searches: []string{"svc.cluster.local"}},
		Linux: &cri.LinuxPodSandboxConfig{
			SecurityContext: &cri.LinuxSandboxSecurityContext{
				NamespaceOptions: &cri.NamespaceOption{Network: network, Pid: cri.NamespaceMode_CONTAINER},
				Seccomp:          &cri.SecurityProfile{ProfileType: cri.SecurityProfile_RuntimeDefault},
			},
			Resources: &cri.LinuxContainerResources{},
			Overhead:  &cri.LinuxContainerResources{},
		},
	}
	if network != cri.NamespaceMode_NODE {
		config.Hostname = name
	}
	return config
}

// Container is the configuration of one container of such a pod.
func Container(name, image string, command ...string) *cri.ContainerConfig {
	return &cri.ContainerConfig{
		Metadata: &cri.ContainerMetadata{Name: name},
		Image:    &cri.ImageSpec{Image: image, UserSpecifiedImage: image},
		Command:  command,
		LogPath:  name + "/0.log",
		Labels:   map[string]string{"io.kubernetes.container.name": name},
		Envs:     []*cri.KeyValue{{Key: "KUBERNETES_SERVICE_HOST", Value: []byte("10.96.0.1")}},
		Linux: &cri.LinuxContainerConfig{
			Resources: &cri.LinuxContainerResources{CpuPeriod: 100000, CpuShares: 102, MemoryLimitInBytes: 128 << 20, OomScoreAdj: 900},
			SecurityContext: &cri.LinuxContainerSecurityContext{
				NamespaceOptions: &cri.NamespaceOption{Pid: cri.NamespaceMode_CONTAINER},
				Capabilities:     &cri.Capability{},
				Seccomp:          &cri.SecurityProfile{ProfileType: cri.SecurityProfile_RuntimeDefault},
				MaskedPaths: []string{"/proc/asound", "/proc/acpi", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
					"/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware",
					"/sys/devices/virtual/powercap"},
				ReadonlyPaths: []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"},
			},
		},
	}
}

// Privileged turns a container and the pod it is to live in into privileged ones.
func Privileged(pod *cri.PodSandboxConfig, container *cri.ContainerConfig) {
	pod.Linux.SecurityContext.Privileged = true
	security := container.Linux.SecurityContext
	security.Privileged, security.MaskedPaths, security.ReadonlyPaths, security.Seccomp = true, nil, nil, nil
}

// LogFile is where the log of a container is.
func LogFile(pod *cri.PodSandboxConfig, container *cri.ContainerConfig) string {
	return filepath.Join(pod.LogDirectory, container.LogPath)
}

// MakeLogDirectories does what the kubelet does before it creates a container.
func MakeLogDirectories(pod *cri.PodSandboxConfig, container *cri.ContainerConfig) error {
	return os.MkdirAll(filepath.Dir(LogFile(pod, container)), 0o755)
}

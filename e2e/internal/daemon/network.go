package daemon

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// A Network is a bridge and an address range for the pods of one daemon. The leases are in the
// daemon's directory.
type Network struct {
	Bridge string
	Subnet string // of IPv4
	leases string
}

func newNetwork(dir, confDir string) (*Network, error) {
	// Process ids are unique among those who test at the same time on one machine.
	id := (os.Getpid()*7 + int(instances.Load())) % 4096
	n := &Network{
		Bridge: fmt.Sprintf("dvt%d", id), leases: dir + "/leases",
		Subnet: fmt.Sprintf("10.%d.%d.0/24", 208+id/256, id%256),
	}
	return n, n.WriteConfig(confDir)
}

// WriteConfig writes the conflist of a dual-stack bridge with host-local addresses.
func (n *Network) WriteConfig(confDir string) error {
	six := strings.TrimSuffix(strings.ReplaceAll(strings.TrimPrefix(n.Subnet, "10."), ".", ":"), ":0/24")
	conf := fmt.Sprintf(`{"cniVersion": "1.0.0", "name": "%s", "plugins": [
  {"type": "bridge", "bridge": "%s", "isGateway": true, "ipMasq": false, "hairpinMode": true,
   "ipam": {"type": "host-local", "dataDir": "%s",
            "ranges": [[{"subnet": "%s"}], [{"subnet": "fd00:da:%s::/64"}]],
            "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]}}
]}
`, n.Bridge, n.Bridge, n.leases, n.Subnet, six)
	return os.WriteFile(filepath.Join(confDir, "10-davit.conflist"), []byte(conf), 0o644)
}

// Delete removes the bridge.
func (n *Network) Delete() {
	exec.Command("ip", "link", "delete", n.Bridge).Run()
}

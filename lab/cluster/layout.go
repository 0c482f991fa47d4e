package cluster

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
)

// Addresses inside the lab's network namespace.
const (
	NodeIP        = "192.168.77.1" // of the bridge device; the node and all of the lab's servers
	nodeCIDR      = NodeIP + "/24"
	podCIDR       = "10.244.0.0/24"
	serviceCIDR   = "10.96.0.0/16"
	apiServiceIP  = "10.96.0.1"
	NodeName      = "lab-node" // of the one node that is real
	bridgeDevice  = "lab0"
	clusterDomain = "cluster.local"
)

// Account and region of the lab's clusters: documentation values of AWS.
const (
	Region  = "us-east-1"
	account = "123456789012"
)

// ARN is the identity of the lab's cluster with this name.
func ARN(name string) string {
	return "arn:aws:eks:" + Region + ":" + account + ":cluster/" + name
}

var validName = regexp.MustCompile(`^[a-z][a-z0-9-]{0,30}$`)

// Layout says where a lab keeps its files. Everything is under State, which Remove deletes.
type Layout struct {
	Name  string
	State string
}

// NewLayout is the layout of the lab of that name under a directory of labs.
func NewLayout(dir, name string) (Layout, error) {
	if !validName.MatchString(name) {
		return Layout{}, fmt.Errorf("lab name %q: use a lower-case letter, then up to 30 lower-case letters, digits or dashes", name)
	}
	return Layout{Name: name, State: filepath.Join(dir, name)}, nil
}

// Path is a path below the state directory.
func (l Layout) Path(parts ...string) string {
	return filepath.Join(append([]string{l.State}, parts...)...)
}

// Kubeconfig is the administrator's kubeconfig; it works on the host and inside.
func (l Layout) Kubeconfig() string { return l.Path("kubeconfig") }

// Log is the log file of one of the lab's processes.
func (l Layout) Log(process string) string { return l.Path("logs", process+".log") }

// AuditLog is what was written through the API server by whoever uses the kubeconfig, user lab-admin, and what VPAs do:
// audit.k8s.io/v1 events, one a line.
func (l Layout) AuditLog() string { return l.Path("logs", "audit.log") }

// specFile is what Start wants of the init.
func (l Layout) specFile() string { return l.Path("spec.json") }

// socket is where the init of a running lab takes commands.
func (l Layout) socket() string { return l.Path("init.sock") }

// recordFile says which process is the init.
func (l Layout) recordFile() string { return l.Path("init.json") }

// readyFile appears when everything runs; failedFile when it does not.
func (l Layout) readyFile() string  { return l.Path("ready") }
func (l Layout) failedFile() string { return l.Path("failed") }

// cgroup is the one parent, relative to each hierarchy, of all cgroups of the lab.
func (l Layout) cgroup() string { return "nopsctl-lab-" + l.Name }

// cgroupRoots are the mounted hierarchies of the machine: one for cgroup v2, several for v1.
func cgroupRoots() ([]string, error) {
	const top = "/sys/fs/cgroup"
	if _, err := os.Stat(filepath.Join(top, "cgroup.controllers")); err == nil {
		return []string{top}, nil
	}
	entries, err := os.ReadDir(top)
	if err != nil {
		return nil, fmt.Errorf("read cgroup hierarchies: %w", err)
	}
	var roots []string
	for _, e := range entries {
		info, err := os.Stat(filepath.Join(top, e.Name()))
		if err != nil || !info.IsDir() {
			continue
		}
		path, err := filepath.EvalSymlinks(filepath.Join(top, e.Name()))
		if err == nil && path == filepath.Join(top, e.Name()) {
			roots = append(roots, path)
		}
	}
	if len(roots) == 0 {
		return nil, errors.New("no cgroup hierarchy is mounted under " + top)
	}
	return roots, nil
}

// v2 says whether the machine has only the unified hierarchy.
func v2() bool {
	_, err := os.Stat("/sys/fs/cgroup/cgroup.controllers")
	return err == nil
}

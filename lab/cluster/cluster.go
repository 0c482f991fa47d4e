package cluster

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Options says what to start. Required unless said otherwise.
type Options struct {
	Layout     Layout
	Executable string            // re-executed as the init with the arguments "__init" and the state directory; empty: this binary
	Bin        string            // directory with etcd, kube-apiserver, …, kubectl and coredns
	Forwards   []Forward         // optional: addresses inside that the host reaches on a port of 127.0.0.1
	Processes  []Process         // optional: programs that run inside beside Kubernetes, such as the platform
	Hosts      []string          // optional: names that resolve to NodeIP inside, for the node and for pods
	Bundle     string            // optional: file of certificates that replaces the system's inside
	Keep       []string          // optional: directories that must be seen inside even where the lab covers what is above them
	Pause      string            // tarball of the pause image
	PauseRef   string            // its name
	Mirrors    map[string]string // optional: registry host → URL that the nodes pull from instead
	Progress   func(string)      // optional: told what is waited for
	Timeout    time.Duration     // optional: until the node is Ready; 0: five minutes
}

const defaultTimeout = 5 * time.Minute

// Cluster is a running lab.
type Cluster struct {
	Layout   Layout
	ARN      string
	PID      int // of the init, in the host's PID namespace
	APIPort  int
	Forwards map[string]string // name → address on the host
}

// record is what remains of Start for later commands.
type record struct {
	PID      int               `json:"pid"`
	Started  uint64            `json:"started"` // start time of the process in clock ticks: a PID alone may be somebody else's by now
	APIPort  int               `json:"api_port"`
	Forwards map[string]string `json:"forwards"`
}

// ErrNotRunning says that there is no lab of that name, or only what a crash left of one.
var ErrNotRunning = errors.New("not running")

// Ready says whether the cluster came all the way up.
func (c *Cluster) Ready() bool {
	_, err := os.Stat(c.Layout.readyFile())
	return err == nil
}

// MissingPackagesError says that programs of the operating system are not there.
type MissingPackagesError struct{ Packages []string }

func (e *MissingPackagesError) Error() string {
	return "Debian packages are missing: apt-get install -y " + strings.Join(e.Packages, " ")
}

// covered is what the lab puts something of its own upon inside.
func covered() []string { return []string{"/proc", "/run", "/sys", "/var/lib", "/var/log"} }

// keep lists the directories that would disappear under what the lab covers, each once, without those below another.
func keep(dirs []string) ([]string, error) {
	tops := covered()
	for _, top := range covered() {
		if resolved, err := filepath.EvalSymlinks(top); err == nil && resolved != top {
			tops = append(tops, resolved)
		}
	}
	var kept []string
	for _, dir := range dirs {
		if dir == "" {
			continue
		}
		given := dir
		dir = filepath.Clean(dir)
		if resolved, err := filepath.EvalSymlinks(dir); err == nil {
			dir = resolved
		}
		for _, top := range tops {
			if dir == top {
				return nil, fmt.Errorf("the lab needs files in %s, and puts a %s of its own there: use a directory below it", given, top)
			}
			if within(dir, top) {
				kept = append(kept, dir)
				break
			}
		}
	}
	var outermost []string
	for n, dir := range kept {
		inside := false
		for m, other := range kept {
			inside = inside || dir != other && within(dir, other) || dir == other && m < n
		}
		if !inside {
			outermost = append(outermost, dir)
		}
	}
	return outermost, nil
}

func within(path, dir string) bool {
	return path == dir || strings.HasPrefix(path, strings.TrimSuffix(dir, "/")+"/")
}

// delay is how long to wait before a program that ended after some time is started again, the previous wait given.
func delay(previous, ran time.Duration) time.Duration {
	const first, longest = 200 * time.Millisecond, 10 * time.Second
	if previous == 0 || ran > time.Minute {
		return first
	}
	return min(2*previous, longest)
}

// bindTarget is the file on which to mount in place of a path. A link may lead into a directory that the lab has covered
// by then, as /etc/resolv.conf leads to /run with systemd-resolved: the file is made there, which the host does not see.
func bindTarget(path string) (string, error) {
	target, err := filepath.EvalSymlinks(path)
	if err == nil {
		return target, nil
	}
	link, linkErr := os.Readlink(path)
	if linkErr != nil {
		return "", fmt.Errorf("mount on %s: %w", path, err)
	}
	if !filepath.IsAbs(link) {
		link = filepath.Join(filepath.Dir(path), link)
	}
	if !within(link, "/run") {
		return "", fmt.Errorf("mount on %s: %w", path, err)
	}
	return link, writeFile(link, "", 0o644)
}

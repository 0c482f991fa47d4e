// Package here says where a measurement runs: in which checkout, on which machine, with which programs.
package here

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"time"

	"github.com/nopsctl/nopsctl/lab/build"
)

// Checkout is the one around the working directory.
func Checkout() (string, error) {
	dir, err := os.Getwd()
	for ; err == nil && dir != "/"; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "lab", "third_party")); err == nil {
			return dir, nil
		}
	}
	return "", errors.Join(errors.New("not in a checkout of nopsctl: run it there, with make bench"), err)
}

// Machine is a sentence's worth on what runs it.
func Machine() string {
	model := "an unknown CPU"
	if text, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		if found := regexp.MustCompile(`(?m)^model name\s*: (.+)$`).FindSubmatch(text); found != nil {
			model = string(found[1])
		}
	}
	release, _ := os.ReadFile("/proc/sys/kernel/osrelease") // without it the sentence is shorter
	return fmt.Sprintf("%s, %d cores, Linux %s, %s", model, runtime.NumCPU(), strings.TrimSpace(string(release)), runtime.Version())
}

// Programs builds those that are named, unless the lab's cache has them, and returns the directory that holds them.
func Programs(ctx context.Context, checkout string, say func(format string, args ...any), names ...string) (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find the cache directory: %w", err)
	}
	builder := build.Builder{Repo: checkout, Cache: filepath.Join(cache, "nopsctl", "lab"), Progress: func(program string, _, _ time.Duration, done bool) {
		if !done {
			say("building %s", program)
		}
	}}
	known := map[string]build.Program{}
	for _, p := range append(build.ThirdParty(), build.Peers()...) {
		known[p.Name] = p
	}
	var needed []build.Program
	for _, name := range names {
		p, ok := known[name]
		if !ok {
			return "", fmt.Errorf("programs of the lab: none is called %s", name)
		}
		needed = append(needed, p)
	}
	dir, err := builder.Assets(ctx, needed)
	if err != nil {
		return "", fmt.Errorf("programs of the lab: %w", err)
	}
	return dir, nil
}

// Load is how busy the machine is, the load average of the last minute: what else runs makes every figure worse, those with much to compute
// most.
func Load() string {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	first, _, _ := strings.Cut(string(text), " ")
	return first
}

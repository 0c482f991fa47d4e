package cluster

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// guestsInside tells the test's copy that it is to play the init: an init takes note of every process that ends, also of
// those that other tests wait for.
const guestsInside = "LAB_TEST_GUESTS"

func TestGuests(t *testing.T) {
	if os.Getenv(guestsInside) != "" {
		guests(t)
		return
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestGuests$", "-test.v")
	cmd.Env = append(os.Environ(), guestsInside+"=1")
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "--- PASS: TestGuests") {
		t.Errorf("%v\n%s", err, out)
	}
}

func guests(t *testing.T) {
	dir := t.TempDir()
	l := Layout{Name: "guests", State: dir}
	if err := os.Mkdir(l.Path("logs"), 0o755); err != nil {
		t.Fatal(err)
	}
	i := &initProcess{spec: spec{Layout: l}, children: map[int]*child{}, generation: map[string]int{}}
	ctx, c := t.Context(), &Cluster{Layout: l}
	if err := i.serve(ctx); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(l.socket()); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the socket: %v, %v", info.Mode(), err)
	}
	go i.reap(ctx)
	sleeper := Process{Name: "sleeper", Path: "/bin/sleep", Args: []string{"1000"}}
	if err := c.StartProcess(ctx, sleeper); err == nil || !strings.Contains(err.Error(), "not ready yet") {
		t.Errorf("started before the lab is ready: %v", err)
	}
	i.mu.Lock()
	i.ready = true
	i.mu.Unlock()
	pids := func(name string) (all []int) {
		i.mu.Lock()
		defer i.mu.Unlock()
		for pid, child := range i.children {
			if child.process.Name == name {
				all = append(all, pid)
			}
		}
		return all
	}
	starts := func() int {
		text, _ := os.ReadFile(dir + "/starts")
		return len(text)
	}
	eventually := func(what string, done func() bool) {
		t.Helper()
		for deadline := time.Now().Add(10 * time.Second); !done(); time.Sleep(10 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("not within ten seconds: %s", what)
			}
		}
	}
	running := func(want string) {
		t.Helper()
		if got, err := c.Processes(ctx); err != nil || fmt.Sprint(got) != want {
			t.Errorf("running: %v, %v, want %s", got, err, want)
		}
	}

	if err := c.StartProcess(ctx, sleeper); err != nil {
		t.Fatal(err)
	}
	if err := c.StartProcess(ctx, sleeper); err == nil || !strings.Contains(err.Error(), "sleeper runs already") {
		t.Errorf("started twice: %v", err)
	}
	first := pids("sleeper")
	if len(first) != 1 {
		t.Fatalf("processes %v", first)
	}
	_ = unix.Kill(first[0], unix.SIGKILL)
	eventually("the sleeper is started again", func() bool { now := pids("sleeper"); return len(now) == 1 && now[0] != first[0] })

	// One that ends again and again is stopped for good, also while it waits to be started.
	crasher := Process{Name: "crasher", Path: "/bin/sh", Args: []string{"-c", "printf x >>" + dir + "/starts; exit 1"}}
	if err := c.StartProcess(ctx, crasher); err != nil {
		t.Fatal(err)
	}
	running("[sleeper crasher]")
	eventually("the crasher ran twice", func() bool { return starts() >= 2 })
	eventually("it waits", func() bool { return len(pids("crasher")) == 0 })
	if err := c.StopProcess(ctx, "crasher"); err != nil {
		t.Error(err)
	}
	before := starts()
	running("[sleeper]")
	if err := c.StopProcess(ctx, "sleeper"); err != nil || len(pids("sleeper")) != 0 {
		t.Errorf("stopped, it still runs: %v, %v", pids("sleeper"), err)
	}
	running("[]")
	if err := c.StopProcess(ctx, "nobody"); err != nil {
		t.Errorf("what is not there cannot be stopped: %v", err)
	}
	// What was stopped can be started, and only once: nothing of the earlier one comes back.
	if err := c.StartProcess(ctx, sleeper); err != nil {
		t.Error(err)
	}
	time.Sleep(2 * time.Second) // longer than the crasher's next wait
	if after := starts(); after != before {
		t.Errorf("the crasher was started %d times after it was stopped", after-before)
	}
	if now := pids("sleeper"); len(now) != 1 {
		t.Errorf("sleepers %v, want one", now)
	}
	if err := c.StopProcess(ctx, "sleeper"); err != nil {
		t.Error(err)
	}
	if err := (&Cluster{Layout: Layout{Name: "none", State: dir + "/none"}}).StopProcess(ctx, "x"); err == nil || !strings.Contains(err.Error(), "lab none") {
		t.Errorf("a lab that is not there: %v", err)
	}
}

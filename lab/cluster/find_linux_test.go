package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"testing"
)

func TestFindWhatIsNotThere(t *testing.T) {
	l, err := NewLayout(t.TempDir(), "find-what-is-not-there") // nobody's, as a demo may be: it is removed below, with its cgroups
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Find(l); !errors.Is(err, ErrNotRunning) {
		t.Errorf("no state: %v", err)
	}
	// A PID that somebody else has by now is not the lab.
	text, err := json.Marshal(record{PID: os.Getpid(), Started: 1})
	if err != nil {
		t.Fatal(err)
	}
	if err := writeFile(l.recordFile(), string(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Find(l); !errors.Is(err, ErrNotRunning) {
		t.Errorf("another process: %v", err)
	}
	if err := writeFile(l.recordFile(), "{", 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Find(l); err == nil || errors.Is(err, ErrNotRunning) {
		t.Errorf("a damaged record: %v", err)
	}
	if os.Geteuid() == 0 {
		if err := Remove(t.Context(), l); err != nil {
			t.Errorf("remove: %v", err)
		}
		if _, err := os.Stat(l.State); !os.IsNotExist(err) {
			t.Errorf("state is left: %v", err)
		}
	}
}

func TestStartTime(t *testing.T) {
	if at, err := startTime(os.Getpid()); err != nil || at == 0 {
		t.Errorf("own: %d, %v", at, err)
	}
	if _, err := startTime(1 << 30); err == nil {
		t.Error("no such process")
	}
}

func TestLock(t *testing.T) {
	dir := t.TempDir()
	layout := func(name string) Layout {
		l, err := NewLayout(dir, name)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	never := func() { t.Error("waits although nobody has the lock") }
	release, err := layout("demo").Lock(t.Context(), never)
	if err != nil {
		t.Fatal(err)
	}
	other, err := layout("other").Lock(t.Context(), never)
	if err != nil {
		t.Fatalf("a lab of another name: %v", err)
	}
	other()
	// Who waits is told so once, and gets the lock when it is released; who gives up gets an error.
	ctx, cancel := context.WithCancel(t.Context())
	if _, err := layout("demo").Lock(ctx, cancel); !errors.Is(err, context.Canceled) {
		t.Errorf("given up: %v", err)
	}
	told := 0
	again, err := layout("demo").Lock(t.Context(), func() { told++; release() })
	if err != nil || told != 1 {
		t.Fatalf("told %d times: %v", told, err)
	}
	again()
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 0 {
		t.Errorf("a lock leaves files: %v, %v", entries, err)
	}
}

package vpa

import (
	"os"
	"testing"
	"time"
)

// TestRequests reads lines of a real audit log: of pods that were created while the webhook was down, hung and was slow, and of what is read by name.
func TestRequests(t *testing.T) {
	log, err := os.ReadFile("testdata/audit.log")
	if err != nil {
		t.Fatal(err)
	}
	all, err := Requests(log, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	created := Created(all, "shop")
	if len(created) != 3 || len(all) != 5 {
		t.Fatalf("%d requests, %d of them made pods, want 5 and 3", len(all), len(created))
	}
	for i, tt := range []struct {
		name                string
		failedOpen, mutated bool
		least, most         time.Duration
	}{
		{"down", true, false, 0, 100 * time.Millisecond},
		{"hanging", true, false, 5 * time.Second, 6 * time.Second},
		{"slow", false, true, 2 * time.Second, 5 * time.Second},
	} {
		r := created[i]
		if got := r.FailedOpen("pods.vpa.nops.io"); got != tt.failedOpen {
			t.Errorf("%s: failed open %t, want %t", tt.name, got, tt.failedOpen)
		}
		if got := r.Mutated("nops-vpa"); got != tt.mutated {
			t.Errorf("%s: mutated %t, want %t", tt.name, got, tt.mutated)
		}
		if r.Took < tt.least || r.Took > tt.most {
			t.Errorf("%s: took %s, want %s to %s", tt.name, r.Took, tt.least, tt.most)
		}
		if r.FailedOpen("pods.example.com") || r.Mutated("vpa-webhook-config") {
			t.Errorf("%s: another webhook's answer is taken for this one's", tt.name)
		}
	}
	if of := Created(all, "theirs"); len(of) != 0 {
		t.Errorf("%d pods were created in another namespace", len(of))
	}
	for i, want := range []string{"create /pods shop/", "create /pods shop/", "create /pods shop/", "update coordination.k8s.io/leases nops/nops-vpa-policy", "get admissionregistration.k8s.io/mutatingwebhookconfigurations /nops-vpa"} {
		if got := all[i].String(); got != want {
			t.Errorf("request %d is %q, want %q", i, got, want)
		}
	}
	if since, err := Requests(log, created[1].At); err != nil || len(Created(since, "shop")) != 2 {
		t.Errorf("%d requests since the second pod, %v", len(since), err)
	}
}

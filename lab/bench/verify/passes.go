package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha512"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// A way is one of verifying all images.
type way struct {
	name    string
	command string // for the page
	ours    bool
	aws     bool // AWS Signer's signatures and their revocation
	run     func(ctx context.Context) (inside time.Duration, err error)
	passes  []pass
}

// bound is how many times its critical path a pass of ours may take before the run fails.
func (w *way) bound() float64 {
	if w.aws {
		return withinAWS
	}
	return within
}

// A pass is one time that all images were verified.
type pass struct {
	took     time.Duration // of the processes, from start to end
	inside   time.Duration // of ours, what it says the slowest image took
	requests []*request
	opened   int // connections
	path     []*request
}

// environment is that of the programs measured: nobody's credentials, cache or settings, and no way out.
func (b *bench) environment() []string {
	env := []string{"PATH=" + os.Getenv("PATH"), "HOME=" + filepath.Join(b.dir, "home"), "TMPDIR=" + b.dir, "AWS_EC2_METADATA_DISABLED=true"}
	if b.world != nil {
		env = append(env, b.world.environment()...)
	}
	return env
}

// output runs a program and returns what it prints, with its exit code.
func (b *bench) output(ctx context.Context, path string, args ...string) (stdout []byte, code int, err error) {
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = b.environment()
	var errs strings.Builder
	cmd.Stderr = &errs
	stdout, err = cmd.Output()
	var ended *exec.ExitError
	switch {
	case errors.As(err, &ended) && ended.Exited():
		return stdout, ended.ExitCode(), fmt.Errorf("%s %s: exit %d: %s", filepath.Base(path), args[0], ended.ExitCode(), errs.String())
	case err != nil:
		return nil, -1, fmt.Errorf("%s %s: %w", filepath.Base(path), args[0], err)
	}
	return stdout, 0, nil
}

// A verification is what of nopsctl's report matters here.
type verification struct {
	Passed  bool           `json:"passed"`
	Counts  map[string]int `json:"counts"`
	Results []struct {
		Reference  string        `json:"reference"`
		Digest     string        `json:"digest"`
		Outcome    string        `json:"outcome"`
		Reason     string        `json:"reason"`
		Method     string        `json:"method"`
		Revocation string        `json:"revocation"`
		Cached     bool          `json:"cached"`
		Duration   time.Duration `json:"duration_ns"`
	} `json:"results"`
}

// nops runs our verification of images.
func (b *bench) nops(ctx context.Context, policy string, images ...image) (v verification, code int, err error) {
	args := []string{"verify", "--policy", policy, "--registry-mirror", b.world.mirror(), "--no-cache", "-o", "json"}
	for _, i := range images {
		args = append(args, i.published())
	}
	text, code, err := b.output(ctx, b.nopsctl, args...)
	if code < 0 {
		return v, code, err
	}
	if wrong := json.Unmarshal(text, &v); wrong != nil {
		return v, code, errors.Join(fmt.Errorf("the report of nopsctl verify: %w\n%s", wrong, text), err)
	}
	return v, code, err
}

// all verifies every image with ours in one pass.
func (b *bench) all(method string) func(ctx context.Context) (time.Duration, error) {
	return func(ctx context.Context) (slowest time.Duration, err error) {
		images := b.world.images
		v, _, err := b.nops(ctx, b.world.policies[method], images...)
		if err != nil {
			return 0, err
		}
		if !v.Passed || v.Counts["verified"] != len(images) || len(v.Results) != len(images) {
			return 0, fmt.Errorf("nopsctl verify: %v of %d images", v.Counts, len(images))
		}
		for i, r := range v.Results {
			switch {
			case r.Digest != images[i].digest || r.Outcome != "verified" || r.Method != method || r.Cached:
				return 0, fmt.Errorf("nopsctl verify: %s is %s, %s by %s, cached %v; want %s", r.Reference, r.Digest, r.Outcome, r.Method, r.Cached, images[i].digest)
			case method == methodAWS && r.Revocation == "":
				return 0, fmt.Errorf("nopsctl verify: nothing is said of the revocation of %s", r.Reference)
			}
			slowest = max(slowest, r.Duration)
		}
		return slowest, nil
	}
}

// cosign verifies images with one process of cosign.
func (b *bench) cosign(ctx context.Context, images ...image) error {
	args := []string{"verify", "--key", b.world.cosignKey, "--insecure-ignore-tlog=true", "--trusted-root", b.world.trustedRoot, "--output", "json"}
	for _, i := range images {
		args = append(args, b.world.at(i))
	}
	text, _, err := b.output(ctx, filepath.Join(b.assets, "cosign"), args...)
	if err != nil {
		return err
	}
	for _, i := range images {
		if !strings.Contains(string(text), `"docker-manifest-digest":"`+i.digest+`"`) {
			return fmt.Errorf("cosign verify %s: its answer does not speak of %s:\n%s", i.name, i.digest, text)
		}
	}
	return nil
}

func (b *bench) cosignVersion(ctx context.Context) (string, error) {
	text, _, err := b.output(ctx, filepath.Join(b.assets, "cosign"), "version", "--json")
	if err != nil {
		return "", err
	}
	var v struct{ GitVersion string }
	if err := json.Unmarshal(text, &v); err != nil || v.GitVersion == "" {
		return "", fmt.Errorf("the version of cosign: %w\n%s", err, text)
	}
	return v.GitVersion, nil
}

// refusals makes sure that what is measured can fail: tampered and revoked images are refused, and as what they are.
func (b *bench) refusals(ctx context.Context) error {
	for _, tt := range []struct {
		image                   image
		method, outcome, reason string
	}{
		{b.world.tampered, methodAWS, "untrusted", "signs-another-artifact"},
		{b.world.tampered, methodCosign, "untrusted", "signs-another-artifact"},
		{b.world.revoked, methodAWS, "revoked", "revoked"},
	} {
		v, code, err := b.nops(ctx, b.world.policies[tt.method], tt.image)
		if code <= 0 {
			return errors.Join(fmt.Errorf("%s by %s: exit code %d, want that it is refused", tt.image.name, tt.method, code), err)
		}
		if len(v.Results) != 1 || v.Passed || v.Results[0].Outcome != tt.outcome || v.Results[0].Reason != tt.reason {
			return fmt.Errorf("%s by %s: %+v, want %s, %s", tt.image.name, tt.method, v.Results, tt.outcome, tt.reason)
		}
	}
	if err := b.cosign(ctx, b.world.tampered); err == nil {
		return errors.New("cosign verifies a tampered image")
	}
	return nil
}

// passes measures all ways, there and back in each round, so that what warms up or slows down meets all alike.
func (b *bench) passes(ctx context.Context) ([]*way, error) {
	images := b.world.images
	ways := []*way{
		{name: "nopsctl, AWS Signer and its revocation", command: "nopsctl verify IMAGES… --policy aws-signer.yaml --no-cache", ours: true, aws: true, run: b.all(methodAWS)},
		{name: "nopsctl, cosign key", command: "nopsctl verify IMAGES… --policy cosign-key.yaml --no-cache", ours: true, run: b.all(methodCosign)},
		{name: loop, command: "for i in IMAGES…; do cosign verify --key cosign.pub --insecure-ignore-tlog=true $i; done", run: func(ctx context.Context) (time.Duration, error) {
			for _, i := range images {
				if err := b.cosign(ctx, i); err != nil {
					return 0, err
				}
			}
			return 0, nil
		}},
		{name: "cosign, one command", command: "cosign verify --key cosign.pub --insecure-ignore-tlog=true IMAGES…", run: func(ctx context.Context) (time.Duration, error) {
			return 0, b.cosign(ctx, images...)
		}},
		{name: "cosign, all at once", command: "the loop with & and wait", run: func(ctx context.Context) (time.Duration, error) {
			errs := make([]error, len(images))
			var wg sync.WaitGroup
			for n, i := range images {
				wg.Go(func() { errs[n] = b.cosign(ctx, i) })
			}
			wg.Wait()
			return 0, errors.Join(errs...)
		}},
	}
	for round := range rounds + 1 {
		b.say("verifying %d images in %d ways, round %d of %d", len(images), len(ways), round, rounds)
		for i := range 2 * len(ways) {
			w := ways[min(i, 2*len(ways)-1-i)]
			p, err := b.pass(ctx, w)
			if err != nil {
				return nil, err
			}
			if round > 0 { // the first fills the page cache with the programs, and nothing else: all that they keep is gone
				w.passes = append(w.passes, p)
			}
		}
	}
	return ways, nil
}

// computations are the signatures on P-384 that AWS Signer's chains of four certificates and the Notary Project's library come to:
// for each image the one that has to hold before AWS is asked and the library's seven, and the library's six of the chain once.
const computations = imageCount*(1+7) + 6

// computing is how long this machine takes for them with all its processors: no round trip makes up for that where there are few.
func computing() (time.Duration, error) {
	key, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		return 0, fmt.Errorf("a key on P-384: %w", err)
	}
	sum := sha512.Sum384([]byte("anything"))
	signature, err := ecdsa.SignASN1(rand.Reader, key, sum[:])
	if err != nil {
		return 0, fmt.Errorf("sign on P-384: %w", err)
	}
	var times []time.Duration
	for range 2 * rounds {
		var wg sync.WaitGroup
		var wrong atomic.Int32
		left := atomic.Int32{}
		left.Store(computations)
		began := time.Now()
		for range runtime.NumCPU() {
			wg.Go(func() {
				for left.Add(-1) >= 0 {
					if !ecdsa.VerifyASN1(&key.PublicKey, sum[:], signature) {
						wrong.Add(1)
					}
				}
			})
		}
		wg.Wait()
		times = append(times, time.Since(began))
		if wrong.Load() > 0 {
			return 0, errors.New("a good signature on P-384 is refused")
		}
	}
	return median(times), nil
}

// loop is what ours is compared with.
const loop = "cosign, once for each image"

// pass goes one way once. What programs keep at home is gone before each.
func (b *bench) pass(ctx context.Context, w *way) (p pass, err error) {
	home := filepath.Join(b.dir, "home")
	if err := errors.Join(os.RemoveAll(home), os.MkdirAll(home, 0o700)); err != nil {
		return p, fmt.Errorf("a new home: %w", err)
	}
	b.world.trace.take()
	// The servers are in this process and share the processors with what is measured; what they leave behind can wait.
	debug.FreeOSMemory()
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	opened := b.world.opened.Load()
	began := time.Now()
	p.inside, err = w.run(ctx)
	p.took = time.Since(began)
	if err != nil {
		return p, fmt.Errorf("%s: %w", w.name, err)
	}
	p.requests, p.opened = b.world.trace.take(), int(b.world.opened.Load()-opened)
	p.path = critical(p.requests)
	if n := b.world.escaped.Load(); n > 0 {
		return p, fmt.Errorf("%s: it wanted to leave the machine %d times", w.name, n)
	}
	return p, b.whole(w, p)
}

// whole makes sure that a pass did all of its work: it asked for every image, for a signature of each, and whoever checks
// revocation asked for that of each.
func (b *bench) whole(w *way, p pass) error {
	asked := map[string]map[string]bool{}
	for _, r := range p.requests {
		k := r.kind()
		if asked[k] == nil {
			asked[k] = map[string]bool{}
		}
		if r.status < 300 {
			asked[k][r.uri] = true
		}
	}
	least := map[string]int{"manifest by tag": len(b.world.images), "blob": len(b.world.images)}
	if w.aws {
		least["revocation"] = len(b.world.images)
	}
	for _, k := range slices.Sorted(maps.Keys(least)) {
		if len(asked[k]) < least[k] {
			return fmt.Errorf("%s: %d requests of the kind %q were answered, want at least %d", w.name, len(asked[k]), k, least[k])
		}
	}
	return nil
}

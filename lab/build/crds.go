package build

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// crdModule pins where the CustomResourceDefinitions come from.
const crdModule = "lab/third_party/karpenter-crds"

// crdSets are the sets by the name of their directory, with the module that each is taken from.
func crdSets() map[string]string {
	return map[string]string{"core": "sigs.k8s.io/karpenter", "aws": "github.com/aws/karpenter-provider-aws"}
}

// CRDs makes karpenter-crds/core and karpenter-crds/aws appear beside the programs of a directory that Assets returned: the CustomResourceDefinitions of
// Karpenter, and those of its AWS provider. Agents' tests hold their writes against both and may import neither.
func (b Builder) CRDs(ctx context.Context, assets string) error {
	key := sha256.New()
	for _, name := range []string{"go.mod", "go.sum"} {
		data, err := os.ReadFile(filepath.Join(b.Repo, crdModule, name))
		if err != nil {
			return fmt.Errorf("pins of Karpenter's CRDs: %w", err)
		}
		key.Write(data)
	}
	dir := filepath.Join(b.Cache, "bin", "karpenter-crds-"+hex.EncodeToString(key.Sum(nil))[:16], "karpenter-crds")
	if _, err := os.Stat(dir); err != nil {
		unlock, err := b.lock(ctx, "karpenter-crds", dir)
		if err != nil {
			return fmt.Errorf("Karpenter's CRDs: %w", err)
		}
		defer unlock()
		if _, err := os.Stat(dir); err != nil {
			if err := b.takeCRDs(ctx, dir); err != nil {
				return fmt.Errorf("Karpenter's CRDs: %w", err)
			}
		}
	}
	link := filepath.Join(assets, "karpenter-crds")
	if have, err := os.Readlink(link); err == nil && have == dir {
		return nil
	}
	if err := os.Remove(link); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("link Karpenter's CRDs: %w", err)
	}
	if err := os.Symlink(dir, link); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("link Karpenter's CRDs: %w", err)
	}
	return nil
}

// upstreamVPA is the module that upstream's VPA is built from, and where.
const (
	upstreamVPA       = "k8s.io/autoscaler/vertical-pod-autoscaler"
	upstreamVPAModule = "lab/third_party/vpa"
)

// UpstreamVPACRDs are the CustomResourceDefinitions of the VPA of Kubernetes, as the module has them that its programs are built from.
func (b Builder) UpstreamVPACRDs(ctx context.Context) ([]byte, error) {
	var module struct{ Dir string }
	if err := b.goJSON(ctx, upstreamVPAModule, &module, "list", "-m", "-json", upstreamVPA); err != nil {
		return nil, err
	}
	if module.Dir == "" { // nothing of it was built yet
		if err := b.goJSON(ctx, upstreamVPAModule, &module, "mod", "download", "-json", upstreamVPA); err != nil {
			return nil, err
		}
	}
	text, err := os.ReadFile(filepath.Join(module.Dir, "deploy", "vpa-v1-crd-gen.yaml"))
	if err != nil {
		return nil, fmt.Errorf("the definitions of upstream's VPA: %w", err)
	}
	return text, nil
}

// takeCRDs copies the files out of the modules. The go command compares the modules with go.sum.
func (b Builder) takeCRDs(ctx context.Context, dir string) error {
	var pins struct {
		Require []struct{ Path, Version string }
	}
	if err := b.goJSON(ctx, crdModule, &pins, "mod", "edit", "-json"); err != nil {
		return err
	}
	versions := map[string]string{}
	for _, r := range pins.Require {
		versions[r.Path] = r.Version
	}
	partial := fmt.Sprintf("%s.%d.partial", dir, os.Getpid())
	defer os.RemoveAll(partial)
	for set, module := range crdSets() {
		if versions[module] == "" {
			return fmt.Errorf("%s/go.mod does not require %s", crdModule, module)
		}
		var got struct{ Dir string }
		if err := b.goJSON(ctx, crdModule, &got, "mod", "download", "-json", module+"@"+versions[module]); err != nil {
			return err
		}
		files, err := filepath.Glob(filepath.Join(got.Dir, "pkg", "apis", "crds", "*.yaml"))
		if err != nil {
			return fmt.Errorf("find the files of %s: %w", module, err)
		}
		const least = 3 // NodePool, NodeClaim, NodeOverlay
		if len(files) < least {
			return fmt.Errorf("%s %s has %d of them, %d at least were expected", module, versions[module], len(files), least)
		}
		if err := os.MkdirAll(filepath.Join(partial, set), 0o755); err != nil {
			return fmt.Errorf("make a directory: %w", err)
		}
		for _, f := range files {
			data, err := os.ReadFile(f)
			if err == nil {
				err = os.WriteFile(filepath.Join(partial, set, filepath.Base(f)), data, 0o644)
			}
			if err != nil {
				return fmt.Errorf("copy %s: %w", filepath.Base(f), err)
			}
		}
	}
	if err := os.Rename(partial, dir); err != nil {
		return fmt.Errorf("put them into place: %w", err)
	}
	return nil
}

// goJSON runs the go command in a module that pins others.
func (b Builder) goJSON(ctx context.Context, in string, into any, args ...string) error {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = filepath.Join(b.Repo, in)
	cmd.Env = append(os.Environ(), "GOFLAGS=", "GOWORK=off")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("go %s in %s: %w\n%s", strings.Join(args, " "), in, err, tail(stderr.String()+string(out), 20))
	}
	if err := json.Unmarshal(out, into); err != nil {
		return fmt.Errorf("go %s: reading the answer: %w", strings.Join(args, " "), err)
	}
	return nil
}

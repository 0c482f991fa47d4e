package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/spf13/cobra"

	embeddedchart "github.com/nopsctl/nopsctl/embedded-chart"
	"github.com/nopsctl/nopsctl/lab/build"
	"github.com/nopsctl/nopsctl/lab/ca"
	"github.com/nopsctl/nopsctl/lab/images"
)

// architectures are those of nodes on EKS.
func architectures() []string { return []string{"amd64", "arm64"} }

func newPublish(g *global) *cobra.Command {
	var registry string
	cmd := &cobra.Command{
		Use: "publish", Short: "Build the images of our agents and push them to a registry of yours", Args: cobra.NoArgs,
		Long: "Builds our agents for amd64 and arm64 and pushes them under REGISTRY[/PREFIX]/nops/…, as install --registry-mirror public.ecr.aws=REGISTRY[/PREFIX] looks for them. It logs in as docker does.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			b, err := g.builder()
			if err != nil {
				return err
			}
			return g.publish(cmd.Context(), b, registry, architectures())
		},
	}
	cmd.Flags().StringVar(&registry, "registry", "", "REGISTRY[/PREFIX]")
	_ = cmd.MarkFlagRequired("registry")
	return cmd
}

func (g *global) publish(ctx context.Context, b build.Builder, registry string, architectures []string) error {
	host, prefix, _ := strings.Cut(strings.TrimSuffix(registry, "/"), "/")
	if host == "" || strings.Contains(registry, "://") {
		return fmt.Errorf("--registry %q: expected REGISTRY[/PREFIX], without a scheme", registry)
	}
	bundle, err := systemBundle()
	if err != nil {
		return err
	}
	list, err := embeddedchart.Images()
	if err != nil {
		return err //nolint:wrapcheck // names the list
	}
	name, _, err := net.SplitHostPort(host)
	if err != nil {
		name = host
	}
	to := images.Registry{Host: host, Insecure: name == "127.0.0.1" || name == "localhost", Keychain: authn.DefaultKeychain}
	pushed := 0
	for _, component := range slices.Sorted(maps.Keys(list)) {
		image := list[component]
		if !image.Available || !image.Ours {
			continue
		}
		name := filepath.Base(image.Repository)
		at := slices.IndexFunc(build.Agents(), func(p build.Program) bool { return p.Name == name })
		if at < 0 {
			return fmt.Errorf("image %s: it is not among the agents that are built", name)
		}
		var made []v1.Image
		for _, arch := range architectures {
			program := build.Agents()[at]
			program.Arch = arch
			path := filepath.Join(b.Cache, "publish", arch, name)
			if err := b.Build(ctx, program, path); err != nil {
				return err //nolint:wrapcheck // names the program
			}
			one, err := images.Build(images.Spec{Repository: image.Repository, Tag: image.Tag, Name: name, Program: path, Ours: true, Arch: arch, Bundle: bundle})
			if err != nil {
				return err //nolint:wrapcheck // names the image
			}
			made = append(made, one)
		}
		repository := strings.TrimPrefix(strings.TrimSuffix(prefix, "/")+"/"+strings.TrimPrefix(image.Repository, "public.ecr.aws/"), "/")
		digest, err := to.PushIndex(ctx, repository, image.Tag, made)
		if err != nil {
			return err //nolint:wrapcheck // names the image
		}
		fmt.Fprintf(g.out, "%s/%s:%s@%s\n", host, repository, image.Tag, digest)
		pushed++
	}
	if pushed == 0 {
		return errors.New("the list of images has none of ours")
	}
	fmt.Fprintf(g.err, "✓ %d of our images are at %s. Sign them (cosign sign, or notation sign with AWS Signer), name the key or profile in a policy, and install with\n  nopsctl install --registry-mirror public.ecr.aws=%s --policy FILE\n", pushed, registry, strings.TrimSuffix(registry, "/"))
	return nil
}

// systemBundle are the certificates that this machine trusts; an image must trust some.
func systemBundle() ([]byte, error) {
	for _, path := range ca.SystemFiles() {
		if data, err := os.ReadFile(path); err == nil {
			return data, nil
		}
	}
	return nil, errors.New("this machine has no bundle of certificates to put into images (Debian: apt-get install ca-certificates)")
}

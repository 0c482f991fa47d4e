package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	embeddedchart "github.com/nopsctl/nopsctl/embedded-chart"
	"github.com/nopsctl/nopsctl/lab/build"
	"github.com/nopsctl/nopsctl/lab/cluster"
	"github.com/nopsctl/nopsctl/lab/images"
	"github.com/nopsctl/nopsctl/lab/platform"
	"github.com/nopsctl/nopsctl/pkg/verify/policy"
)

const pauseRef = "lab.nopsctl.local/pause:1"

// The image that uses CPU and memory as it is told: public.ecr.aws/lab/load:1, for workloads of stories. Nobody signs it.
const (
	loadRepository = "lab/load"
	loadTag        = "1"
)

// heartbeatSeconds is the shortest interval that the contract allows: a lab is for looking at.
const heartbeatSeconds = 15

func newUp(g *global) *cobra.Command {
	return withComponents(build.Default, &cobra.Command{
		Use: "up", Short: "Start the lab, compiling what is missing; a lab that is up gets what it lacks", Args: cobra.NoArgs,
	}, func(cmd *cobra.Command, set build.Set) error { return g.up(cmd.Context(), set) })
}

// withComponents lets the user say how much of the third-party programs a command is about.
func withComponents(usual build.Set, cmd *cobra.Command, run func(*cobra.Command, build.Set) error) *cobra.Command {
	text := cmd.Flags().String("components", string(usual), string(build.Default)+": what the chart switches on by itself; "+string(build.All)+": Prometheus and OpenCost too, and what tests compare with")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		set, err := build.ParseSet(*text)
		if err != nil {
			return err //nolint:wrapcheck // says what may be written
		}
		return run(cmd, set)
	}
	return cmd
}

func (g *global) up(ctx context.Context, set build.Set) error {
	began := time.Now()
	l, err := g.layout()
	if err != nil {
		return err
	}
	if c, err := cluster.Find(l); err == nil && complete(c) && filledWith(l).Covers(set) {
		return g.upAlready(ctx)
	}
	if err := cluster.Supported(); err != nil {
		var missing *cluster.MissingPackagesError
		if errors.As(err, &missing) {
			return &hinted{err, "install them with: lab deps --install"}
		}
		return err //nolint:wrapcheck // says what the lab needs
	}
	b, err := g.builder()
	if err != nil {
		return err
	}
	bin, err := b.Assets(ctx, set.Programs())
	if err != nil {
		return err //nolint:wrapcheck // says which program
	}
	// Only now: who waits for the lock should not wait for compilers.
	release, err := g.lock(ctx, l)
	if err != nil {
		return err
	}
	defer release()
	c, err := cluster.Find(l)
	switch {
	case err == nil && complete(c) && filledWith(l).Covers(set):
		return g.upAlready(ctx)
	case err == nil && c.Ready():
		// An earlier command was interrupted, or failed, after Kubernetes was up, or wanted less: what is left to do is done.
	default:
		if c, err = g.startCluster(ctx, l, b, bin); err != nil {
			return err
		}
	}
	if err := os.WriteFile(l.Path("bin"), []byte(bin+"\n"), 0o600); err != nil {
		return fmt.Errorf("note where the programs are: %w", err)
	}
	if err := g.fill(ctx, c, b, set, bin); err != nil {
		return err
	}
	if err := os.WriteFile(completeFile(l), []byte(set), 0o600); err != nil {
		return fmt.Errorf("note that the lab is up: %w", err)
	}
	fmt.Fprintf(g.err, "✓ lab %s is up after %s\n", g.name, time.Since(began).Round(time.Second))
	return g.showStatus(ctx, "text")
}

func (g *global) upAlready(ctx context.Context) error {
	fmt.Fprintf(g.err, "✓ lab %s is up already\n", g.name)
	return g.showStatus(ctx, "text")
}

// completeFile is there once the registry holds everything, and names the set that it was filled with. A cluster is Ready
// some seconds before.
func completeFile(l cluster.Layout) string { return l.Path("complete") }

// complete says whether a lab came all the way up: not Kubernetes alone, but everything that nopsctl needs of a lab.
func complete(c *cluster.Cluster) bool {
	_, err := os.Stat(completeFile(c.Layout))
	return err == nil && c.Ready()
}

// filledWith is what a complete lab was brought up with.
func filledWith(l cluster.Layout) build.Set {
	set, err := os.ReadFile(completeFile(l))
	if err != nil {
		return ""
	}
	return build.Set(set)
}

// lock makes this the only command that brings the lab up or down.
func (g *global) lock(ctx context.Context, l cluster.Layout) (release func(), err error) {
	return l.Lock(ctx, func() { //nolint:wrapcheck // names the lab
		fmt.Fprintf(g.err, "· another command is bringing lab %s up or down; waiting until it has ended …\n", g.name)
	})
}

// options of the platform side. Its socket lies in its state directory.
func options(l cluster.Layout, cache, bin string) (platform.Options, error) {
	exe, err := os.Executable()
	if err != nil {
		return platform.Options{}, fmt.Errorf("find this program: %w", err)
	}
	return platform.Options{StateDir: l.Path("platform"), CacheDir: cache, Bin: bin, Listen: platform.Inside(cluster.NodeIP), Region: cluster.Region, HeartbeatSeconds: heartbeatSeconds, Executable: exe}, nil
}

func (g *global) startCluster(ctx context.Context, l cluster.Layout, b build.Builder, bin string) (*cluster.Cluster, error) {
	if err := cluster.Prepare(ctx, l); err != nil {
		return nil, err //nolint:wrapcheck // names the lab
	}
	o, err := options(l, b.Cache, bin)
	if err != nil {
		return nil, err
	}
	bundle, err := platform.Bundle(o, time.Now())
	if err != nil {
		return nil, err //nolint:wrapcheck // says what it reads
	}
	if err := os.WriteFile(bundleFile(l), bundle, 0o644); err != nil {
		return nil, fmt.Errorf("write the certificates of the lab: %w", err)
	}
	file, err := o.Write()
	if err != nil {
		return nil, err //nolint:wrapcheck // says what it writes
	}
	pause, err := pauseTarball(b.Cache, filepath.Join(o.Bin, "pause"))
	if err != nil {
		return nil, err
	}
	fmt.Fprintf(g.err, "· starting Kubernetes and the platform …\n")
	return cluster.Start(ctx, cluster.Options{ //nolint:wrapcheck // names the lab
		Layout: l, Executable: o.Executable, Bin: o.Bin, Bundle: bundleFile(l), Pause: pause, PauseRef: pauseRef,
		Keep:      []string{b.Cache}, // Bin holds links into it, and the platform's registry lies there
		Hosts:     append(platform.Hosts(o.Region), "sqs."+cluster.Region+".amazonaws.com"),
		Processes: []cluster.Process{{Name: "platform", Path: o.Executable, Args: []string{platform.Subcommand, "serve", file}}},
		Mirrors:   map[string]string{"public.ecr.aws": "http://" + o.Listen.RegistryNodes},
		Forwards: []cluster.Forward{
			{Name: "api", To: o.Listen.API}, {Name: "metrics", To: o.Listen.Metrics}, {Name: "registry", To: o.Listen.Registry}, {Name: "proxy", To: o.Listen.Proxy},
		},
		Progress: func(what string) { fmt.Fprintf(g.err, "  waiting until %s\n", what) },
	})
}

// fill puts everything into the lab's registry. What is there already is left alone.
func (g *global) fill(ctx context.Context, c *cluster.Cluster, b build.Builder, set build.Set, bin string) error {
	info, err := platform.Control{StateDir: c.Layout.Path("platform")}.WaitReady(ctx)
	if err != nil {
		return err //nolint:wrapcheck // says what is not ready
	}
	if err := writeTrust(c.Layout, b.Cache, info); err != nil {
		return err
	}
	bundle, err := os.ReadFile(bundleFile(c.Layout))
	if err != nil {
		return fmt.Errorf("read the certificates of the lab: %w", err)
	}
	return g.pushImages(ctx, b, set, bin, c.Forwards["registry"], bundle)
}

// bundleFile holds the certificates to trust inside.
func bundleFile(l cluster.Layout) string { return l.Path("bundle.pem") }

// pauseTarball is the image that holds a pod's namespaces, kept in the cache by the content of its program.
func pauseTarball(cache, program string) (string, error) {
	data, err := os.ReadFile(program)
	if err != nil {
		return "", fmt.Errorf("pause image: %w", err)
	}
	sum := sha256.Sum256(data)
	path := filepath.Join(cache, "pause-"+hex.EncodeToString(sum[:8])+".tar")
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	image, err := images.Build(images.Spec{Repository: "pause", Tag: "1", Program: program, Name: "pause"})
	if err != nil {
		return "", err //nolint:wrapcheck // names the image
	}
	return path, images.Export(path, pauseRef, image) //nolint:wrapcheck // names the image
}

// pushImages builds our agents and puts the images of the chart, and the chart, into the lab's registry under their
// published names.
func (g *global) pushImages(ctx context.Context, b build.Builder, set build.Set, bin, registry string, bundle []byte) error {
	list, err := embeddedchart.Images()
	if err != nil {
		return err //nolint:wrapcheck // names the list
	}
	agents := filepath.Join(b.Cache, "agents")
	specs, err := imageSpecs(list, set, bin, agents, bundle)
	if err != nil {
		return err
	}
	for _, p := range build.Agents() {
		program := filepath.Join(agents, p.Name)
		if !slices.ContainsFunc(specs, func(s images.Spec) bool { return s.Program == program }) {
			continue // of an image that the chart does not have yet
		}
		if err := b.Build(ctx, p, program); err != nil {
			return err //nolint:wrapcheck // names the program
		}
	}
	keys, err := signingKeys(b.Cache)
	if err != nil {
		return err
	}
	r, memo := images.Registry{Host: registry, Insecure: true}, filepath.Join(b.Cache, "images")
	for _, spec := range specs {
		digest, _, err := r.Ensure(ctx, spec, memo)
		if err != nil {
			return err //nolint:wrapcheck // names the image
		}
		if _, err := keys.Ensure(ctx, r, spec.Repository, digest, signedBy(spec.Ours), memo); err != nil {
			return err //nolint:wrapcheck // names the image
		}
	}
	if set == build.All {
		if _, _, err := r.Ensure(ctx, images.Spec{Repository: loadRepository, Tag: loadTag, Program: filepath.Join(bin, "load"), Name: "load"}, memo); err != nil {
			return err //nolint:wrapcheck // names the image
		}
	}
	chart, err := embeddedchart.FS()
	if err != nil {
		return err //nolint:wrapcheck // names the chart
	}
	_, _, digest, err := r.PushChart(ctx, path.Dir(chartRepository), chart)
	if err != nil {
		return err //nolint:wrapcheck // names the chart
	}
	_, err = keys.Ensure(ctx, r, chartRepository, digest, policy.MethodAWSSigner, memo)
	return err //nolint:wrapcheck // names the chart
}

// imageSpecs says which images a lab of this set serves: what its vendor alone can build is missing, and so are programs
// that the set leaves out. Our own images also go by the tags that the published documentation pins.
func imageSpecs(list map[string]embeddedchart.Image, set build.Set, bin, agents string, bundle []byte) ([]images.Spec, error) {
	theirs, ours := map[string]build.Program{}, map[string]bool{}
	for _, p := range build.ThirdParty() {
		if p.Component != "" {
			theirs[p.Component] = p
		}
	}
	for _, p := range build.Agents() {
		ours[p.Name] = true
	}
	var specs []images.Spec
	for _, component := range slices.Sorted(maps.Keys(list)) {
		i := list[component]
		if !i.Available || i.External {
			continue
		}
		spec := images.Spec{Repository: strings.TrimPrefix(i.Repository, "public.ecr.aws/"), Tag: i.Tag, Bundle: bundle, Ours: i.Ours}
		if i.Ours {
			spec.Name, spec.Version = path.Base(i.Repository), i.Tag
			spec.Program = filepath.Join(agents, spec.Name)
			if !ours[spec.Name] {
				return nil, fmt.Errorf("image of %s: %s is not among the agents that are built", component, spec.Name)
			}
		} else {
			p, known := theirs[component]
			switch {
			case !known:
				return nil, fmt.Errorf("image of %s: nobody knows how to build it", component)
			case p.Extra && set != build.All:
				continue
			}
			spec.Name, spec.Version, spec.Program = p.Name, p.Version, filepath.Join(bin, p.Name)
		}
		for _, tag := range append([]string{i.Tag}, i.PublishedTags...) {
			spec.Tag = tag
			specs = append(specs, spec)
		}
	}
	return specs, nil
}

func newDown(g *global) *cobra.Command {
	return &cobra.Command{
		Use: "down", Short: "Remove the lab: processes, mounts, network, cgroups and state; the cache stays", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			l, err := g.layout()
			if err != nil {
				return err
			}
			release, err := g.lock(cmd.Context(), l)
			if err != nil {
				return err
			}
			defer release()
			_, found := cluster.Find(l)
			if err := cluster.Remove(cmd.Context(), l); err != nil {
				return err //nolint:wrapcheck // names the lab
			}
			// The directories above are ours as long as nobody else has put something there.
			for dir := filepath.Dir(l.State); strings.Contains(dir, "nopsctl"); dir = filepath.Dir(dir) {
				if os.Remove(dir) != nil {
					break
				}
			}
			if errors.Is(found, cluster.ErrNotRunning) {
				fmt.Fprintf(g.err, "✓ lab %s was not running; nothing of it is left\n", g.name)
				return nil
			}
			fmt.Fprintf(g.err, "✓ lab %s is gone\n", g.name)
			return nil
		},
	}
}

package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/nopsctl/nopsctl/lab/build"
	"github.com/nopsctl/nopsctl/lab/cluster"
	"github.com/nopsctl/nopsctl/lab/platform"
)

// inside is the environment of a program that runs in the lab: the caller's, but for what would lead out of it.
func (g *global) inside(l cluster.Layout) ([]string, error) {
	repo, err := repository()
	if err != nil {
		return nil, err
	}
	options, err := os.ReadFile(l.Path("bin"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("lab %s: %w", g.name, err)
	}
	var env []string
	for _, e := range os.Environ() {
		name, _, _ := strings.Cut(e, "=")
		// Somebody's real keys have no business in here: what speaks for AWS inside would be shown them.
		if !strings.HasPrefix(name, "AWS_") && !slices.Contains([]string{"PATH", "KUBECONFIG", "SSL_CERT_FILE", "SSL_CERT_DIR", "HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY", "https_proxy", "http_proxy", "no_proxy"}, name) {
			env = append(env, e)
		}
	}
	path := strings.Join([]string{filepath.Join(repo, "bin"), strings.TrimSpace(string(options)), os.Getenv("PATH"), "/usr/sbin", "/usr/bin", "/sbin", "/bin"}, ":")
	env = append(env, awsEnvironment(l)...)
	// What kubectl and helm keep goes away with the lab.
	return append(env, "PATH="+path, "KUBECONFIG="+l.Kubeconfig(), "KUBECACHEDIR="+l.Path("home", "kube-cache"), "HELM_CACHE_HOME="+l.Path("home", "helm-cache"),
		"HELM_CONFIG_HOME="+l.Path("home", "helm-config"), "HELM_DATA_HOME="+l.Path("home", "helm-data")), nil
}

func newExec(g *global) *cobra.Command {
	return &cobra.Command{
		Use: "exec -- COMMAND…", Short: "Run a command inside: the real host names lead to the lab, kubectl and helm are there", Args: cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			c, err := g.running()
			if err != nil {
				return err
			}
			env, err := g.inside(c.Layout)
			if err != nil {
				return err
			}
			dir, err := os.Getwd()
			if err != nil {
				return fmt.Errorf("find the working directory: %w", err)
			}
			state, err := c.Exec(dir, env, args)
			switch {
			case err != nil:
				return err //nolint:wrapcheck // names program and lab
			case !state.Success():
				code := state.ExitCode()
				if code < 0 {
					code = 128 + 9
				}
				return exitStatus(code)
			}
			return nil
		},
	}
}

func newFault(g *global) *cobra.Command {
	return &cobra.Command{
		Use: "fault NAME down|up", Short: "Break a part of the platform side, or mend it: " + strings.Join(platform.Faults(), ", "), Long: `Break a part of the platform side, or mend it.

  platform        app.nops.io
  metrics         the metrics store; an HTTP status (429, 503, …) makes it answer writes with that
  registry        public.ecr.aws, as nopsctl and helm see it; the nodes still pull
  registry-nodes  the same, as the nodes see it
  signer          AWS Signer's revocation API; an HTTP status makes it answer with that, "slow" longer than anybody waits`, Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := g.running()
			if err != nil {
				return err
			}
			if err := (platform.Control{StateDir: c.Layout.Path("platform")}).Fault(cmd.Context(), args[0], args[1]); err != nil {
				return err //nolint:wrapcheck // names the fault
			}
			fmt.Fprintf(g.err, "✓ %s is %s\n", args[0], args[1])
			return nil
		},
	}
}

func newLogs(g *global) *cobra.Command {
	return &cobra.Command{
		Use: "logs [PROCESS]", Short: "Print the log of one of the lab's processes, or list them", Args: cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			l, err := g.layout()
			if err != nil {
				return err
			}
			entries, err := os.ReadDir(l.Path("logs"))
			if err != nil {
				return &hinted{fmt.Errorf("lab %s has no logs: %w", g.name, err), "start it with: lab up --name " + g.name}
			}
			var names []string
			for _, e := range entries {
				names = append(names, strings.TrimSuffix(e.Name(), ".log"))
			}
			switch {
			case len(args) == 0:
				fmt.Fprintln(g.out, strings.Join(names, "\n"))
				return nil
			case !slices.Contains(names, args[0]):
				return fmt.Errorf("no process %q: %s", args[0], strings.Join(names, ", "))
			}
			f, err := os.Open(l.Log(args[0]))
			if err != nil {
				return fmt.Errorf("log of %s: %w", args[0], err)
			}
			defer f.Close()
			_, err = io.Copy(g.out, f)
			return err //nolint:wrapcheck // the stream says it all
		},
	}
}

// newForgetImages makes the node pull again: stories about registries need it.
func newForgetImages(g *global) *cobra.Command {
	return &cobra.Command{
		Use: "forget-images", Short: "Remove the pulled images from the node", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			c, err := g.running()
			if err != nil {
				return err
			}
			env, err := g.inside(c.Layout)
			if err != nil {
				return err
			}
			state, err := c.Exec("/", env, []string{"sh", "-c", "ctr -n k8s.io images ls -q | grep -v pause | xargs -r ctr -n k8s.io images rm --sync >/dev/null"})
			if err != nil {
				return err //nolint:wrapcheck // names program and lab
			}
			if !state.Success() {
				return exitStatus(state.ExitCode())
			}
			return nil
		},
	}
}

func newDeps(g *global) *cobra.Command {
	var install bool
	cmd := &cobra.Command{
		Use: "deps", Short: "Name the Debian packages that the lab needs and this machine lacks", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if runtime.GOOS != "linux" {
				return cluster.Supported() //nolint:wrapcheck // says what the lab needs
			}
			missing := cluster.MissingPackages()
			if len(missing) == 0 {
				return nil
			}
			line := "apt-get install -y " + strings.Join(missing, " ")
			switch {
			case !install:
				fmt.Fprintln(g.out, line)
				return nil
			case os.Geteuid() != 0:
				return fmt.Errorf("Debian packages are missing; as root: %s", line)
			}
			fmt.Fprintf(g.err, "· %s …\n", line)
			for _, args := range [][]string{{"apt-get", "update", "-qq"}, append([]string{"apt-get", "install", "-y", "-qq", "--no-install-recommends"}, missing...)} {
				apt := exec.CommandContext(cmd.Context(), args[0], args[1:]...)
				apt.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
				if out, err := apt.CombinedOutput(); err != nil {
					return fmt.Errorf("%s: %w\n%s", strings.Join(args, " "), err, out)
				}
			}
			if missing := cluster.MissingPackages(); len(missing) > 0 {
				return fmt.Errorf("still missing after the installation: %s", strings.Join(missing, " "))
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&install, "install", false, "install them (as root)")
	return cmd
}

func newBuild(g *global) *cobra.Command {
	return withComponents(build.All, &cobra.Command{
		Use: "build", Short: "Compile what the lab runs into the cache", Args: cobra.NoArgs,
	}, func(cmd *cobra.Command, set build.Set) error {
		_, err := g.assets(cmd, set)
		return err
	})
}

func newAssets(g *global) *cobra.Command {
	return withComponents(build.All, &cobra.Command{
		Use: "assets", Short: "Print the directory of compiled programs (etcd, kube-apiserver, kubectl, helm, vmagent, …)", Args: cobra.NoArgs,
	}, func(cmd *cobra.Command, set build.Set) error {
		dir, err := g.assets(cmd, set)
		if err == nil {
			fmt.Fprintln(g.out, dir)
		}
		return err
	})
}

func (g *global) assets(cmd *cobra.Command, set build.Set) (string, error) {
	b, err := g.builder()
	if err != nil {
		return "", err
	}
	dir, err := b.Assets(cmd.Context(), set.Programs())
	if err != nil || set != build.All {
		return dir, err //nolint:wrapcheck // names the program
	}
	return dir, b.CRDs(cmd.Context(), dir) //nolint:wrapcheck // says what of
}

package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"strings"

	"github.com/spf13/pflag"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"
)

// Process is what the process owns.
type Process struct {
	Args           []string // without the program's name
	Getenv         Getenv
	Stdout, Stderr io.Writer
	Version        string
	// KubeConfig says how to reach the API server; nil means from inside a pod.
	KubeConfig func() (*rest.Config, error)
}

// Program is an agent's program. Besides its commands it has version and help.
type Program struct {
	Name     string // of the binary
	About    string // a sentence, of which the name is the subject
	Commands []Command
	// Secrets are the variables of the environment, besides EnvAPIKey, whose values must never be written anywhere.
	Secrets []string
}

// Command is one of a program's.
type Command struct {
	Name, About string
	Run         func(ctx context.Context, c *Call) error
}

// Call is a call of a command.
type Call struct {
	Process
	program Program
	command string
	args    []string
}

// Main runs the program and returns its exit code: 0, 1 for a failure, 2 for a mistake in the call.
func (p Program) Main(ctx context.Context, process Process) int {
	c := &Call{Process: process, program: p}
	if len(process.Args) > 0 {
		c.command, c.args = process.Args[0], process.Args[1:]
	}
	var err error
	switch i := slices.IndexFunc(p.Commands, func(known Command) bool { return known.Name == c.command }); {
	case i >= 0:
		err = p.Commands[i].Run(ctx, c)
	case c.command == "version":
		fmt.Fprintln(c.Stdout, c.Version)
	case c.command == "help", c.command == "--help", c.command == "-h":
		fmt.Fprint(c.Stdout, p.usage())
	default:
		err = Misuse(fmt.Errorf("%q is no command; there are %s and version", c.command, p.names()))
	}
	if err == nil || errors.Is(err, pflag.ErrHelp) {
		return 0
	}
	fmt.Fprintf(c.redacted(c.Stderr), "%s: %v\n", p.Name, err)
	var wrong misuse
	if errors.As(err, &wrong) {
		return 2
	}
	return 1
}

func (p Program) names() string {
	var names []string
	for _, c := range p.Commands {
		names = append(names, c.Name)
	}
	return strings.Join(names, ", ")
}

func (p Program) usage() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s\n\n", p.Name, p.About)
	wide := len("version")
	for _, c := range p.Commands {
		wide = max(wide, len(c.Name))
	}
	for _, c := range append(slices.Clone(p.Commands), Command{Name: "version", About: "print the version"}) {
		fmt.Fprintf(&b, "  %-*s  %s\n", wide, c.Name, c.About)
	}
	b.WriteString("\nEach command lists its flags with --help.\n")
	return b.String()
}

// misuse is a mistake in the call.
type misuse struct{ error }

// Misuse says that an error is a mistake in the call: the exit code is 2.
func Misuse(err error) error { return misuse{err} }

// secrets are the values that must not be written anywhere.
func (c *Call) secrets() []string {
	values := []string{strings.TrimSpace(c.Getenv(EnvAPIKey))}
	for _, name := range c.program.Secrets {
		values = append(values, strings.TrimSpace(c.Getenv(name)))
	}
	return values
}

func (c *Call) redacted(w io.Writer) *Redactor { return NewRedactor(w, c.secrets()...) }

// Out is where the command's answer goes, without credentials.
func (c *Call) Out() io.Writer { return c.redacted(c.Stdout) }

// UserAgent is how the program names itself to servers.
func (c *Call) UserAgent(name string) string { return name + "/" + c.Version }

// Parse reads the arguments into the options and validates them. What is wrong is a Misuse.
func (c *Call) Parse(o Flags) error {
	fs := pflag.NewFlagSet(c.program.Name+" "+c.command, pflag.ContinueOnError)
	fs.SetOutput(c.redacted(c.Stderr))
	o.BindFlags(fs, c.Getenv)
	err := fs.Parse(c.args)
	if err == nil {
		err = takeArguments(o, fs.Args())
	}
	if err == nil {
		err = o.Validate()
	}
	if err != nil && !errors.Is(err, pflag.ErrHelp) {
		return Misuse(err)
	}
	return err
}

// Arguments is implemented by options of commands that take arguments besides flags.
type Arguments interface {
	TakeArguments(args []string) error
}

func takeArguments(o Flags, args []string) error {
	if takes, is := o.(Arguments); is {
		return takes.TakeArguments(args)
	}
	if len(args) > 0 {
		return fmt.Errorf("unexpected argument %q", args[0])
	}
	return nil
}

// Logger writes to the process's stderr. client-go is made to write through it: klog's own lines would be no JSON and pass no
// redaction.
func (c *Call) Logger(o ProcessOptions) (*slog.Logger, error) {
	level, err := ParseLevel(o.LogLevel)
	if err != nil {
		return nil, Misuse(err)
	}
	log := NewLogger(c.Stderr, level, c.secrets()...)
	klog.SetSlogLogger(log)
	return log, nil
}

// Kubernetes says how to reach the API server.
func (c *Call) Kubernetes() (*rest.Config, error) {
	find := c.KubeConfig
	if find == nil {
		find = rest.InClusterConfig
	}
	config, err := find()
	if err != nil {
		return nil, fmt.Errorf("finding the Kubernetes API: %w", err)
	}
	return config, nil
}

// Listen opens the address of the endpoints.
func (o *ProcessOptions) Listen(ctx context.Context) (net.Listener, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", o.ListenAddress)
	if err != nil {
		return nil, fmt.Errorf("listening for health checks on %s (--listen-address, %s): %w", o.ListenAddress, EnvListen, err)
	}
	return l, nil
}

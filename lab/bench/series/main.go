// Command series measures what the chart's keep-list saves: how many series a cluster of 1,000 pods makes and how many bytes
// they are on the wire, beside Grafana's chart k8s-monitoring with its defaults and beside no list at all.
//
// The real vmagent collects in all three cases, from the real kube-state-metrics (against a real API server that holds the
// cluster), the real node_exporter (of this machine) and pages in the form of a kubelet's.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/nopsctl/nopsctl/lab/bench/here"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM) //nolint:forbidigo // the process starts here
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)                                     //nolint:forbidigo // likewise
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "series:", err) //nolint:forbidigo // likewise
		os.Exit(1)                              //nolint:forbidigo // likewise
	}
}

// A bench is one run.
type bench struct {
	repo, assets, dir string
	progress          io.Writer
	chart             *chart
	cluster           *cluster
	families          []family
	pages             map[string][]byte // by path, see page
	exporters         string            // address of the server of pages
}

func run(ctx context.Context, args []string, out, progress io.Writer) (err error) {
	fs := flag.NewFlagSet("series", flag.ContinueOnError)
	write := fs.Bool("write", false, "rewrite docs/series.md")
	keep := fs.String("pages", "", "also leave the exporters' pages in this directory")
	if err := fs.Parse(args); err != nil {
		return fmt.Errorf("arguments: %w", err)
	}
	b := &bench{progress: progress, cluster: newCluster(), pages: map[string][]byte{}}
	other, err := loadFacts()
	if err != nil {
		return err
	}
	known, err := loadNames()
	if err != nil {
		return err
	}
	if b.families, err = parseFamilies(cadvisorTable); err != nil {
		return err
	}
	if b.repo, err = here.Checkout(); err != nil {
		return err
	}
	if b.dir, err = os.MkdirTemp("", "series-"); err != nil {
		return fmt.Errorf("make a directory: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(b.dir)) }()
	if b.assets, err = here.Programs(ctx, b.repo, b.say, "vmagent", "node_exporter", "kube-state-metrics", "kubernetes", "helm"); err != nil {
		return err
	}
	if b.chart, err = render(ctx, b.assets, b.repo); err != nil {
		return err
	}
	if err := b.fetchPages(ctx, other); err != nil {
		return err
	}
	if *keep != "" {
		if err := b.leave(*keep); err != nil {
			return err
		}
	}
	address, closePages, err := serve(ctx, http.HandlerFunc(b.page))
	if err != nil {
		return err
	}
	defer closePages()
	b.exporters = address
	ways, err := b.collectors(other)
	if err != nil {
		return err
	}
	figures := report{facts: other, names: known, results: map[string]map[string]result{}, chart: b.chart, when: time.Now().UTC(), machine: here.Machine()}
	if figures.versions, err = versions(b.repo); err != nil {
		return err
	}
	for _, way := range ways {
		b.say("collecting: %s", way.name)
		if figures.results[way.name], err = b.measure(ctx, way); err != nil {
			return err
		}
	}
	if err := figures.check(); err != nil {
		return err
	}
	page, err := figures.markdown()
	if err != nil {
		return err
	}
	fmt.Fprint(out, page)
	if *write {
		if err := os.WriteFile(filepath.Join(b.repo, "docs", "series.md"), []byte(page), 0o644); err != nil {
			return fmt.Errorf("write the page: %w", err)
		}
	}
	return nil
}

func (b *bench) say(format string, args ...any) {
	fmt.Fprintf(b.progress, "· "+format+" …\n", args...)
}

// page answers /WHO/SOURCE[/NODE]: exporters are asked in different ways by different charts, kubelets are not.
func (b *bench) page(w http.ResponseWriter, r *http.Request) {
	who, rest, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	source, _, _ := strings.Cut(rest, "/")
	for _, path := range []string{rest, who + "/" + source, source} {
		if text, ok := b.pages[path]; ok {
			w.Header().Set("Content-Type", "text/plain; version=0.0.4")
			_, _ = w.Write(text)
			return
		}
	}
	http.NotFound(w, r)
}

// leave writes the pages to a directory, for those who want to look.
func (b *bench) leave(dir string) error {
	for path, text := range b.pages {
		file := filepath.Join(dir, path)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return fmt.Errorf("leave the pages: %w", err)
		}
		if err := os.WriteFile(file, text, 0o644); err != nil {
			return fmt.Errorf("leave the pages: %w", err)
		}
	}
	return nil
}

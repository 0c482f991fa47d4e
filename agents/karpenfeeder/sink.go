package karpenfeeder

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"

	"github.com/nopsctl/nopsctl/agents/internal/agent"
)

// Names of the documents, in a ConfigMap and in a directory.
const (
	KeyMarket      = "market.json"
	KeyCommitments = "commitments.json"
	keyMemory      = "feeder.gz"
)

// A Sink is where the documents go, and where the next run finds what this one remembers.
type Sink interface {
	// Load is the memory of the last run; the zero value where there was none.
	Load(ctx context.Context) (Memory, error)
	// Store writes all or nothing. A nil document leaves the one that is there.
	Store(ctx context.Context, market, commitments []byte, m Memory) error
}

var (
	_ Sink = (*configMap)(nil)
	_ Sink = Dir("")
)

// configMap keeps everything in one object, compressed: a region's market is more than an object holds otherwise.
type configMap struct {
	core            rest.Interface // of the core group, knows ConfigMap
	namespace, name string
	labels          map[string]string
	last            *corev1.ConfigMap // as loaded
}

// Load implements Sink.
func (c *configMap) Load(ctx context.Context) (m Memory, err error) {
	var have corev1.ConfigMap
	err = c.core.Get().Namespace(c.namespace).Resource("configmaps").Name(c.name).Do(ctx).Into(&have)
	if agent.StatusOf(err) == http.StatusNotFound {
		c.last = nil
		return m.whole(), nil
	}
	if err != nil {
		return m, fmt.Errorf("reading ConfigMap %s/%s: %w", c.namespace, c.name, err)
	}
	c.last = &have
	return remembered(have.BinaryData[keyMemory], c.namespace+"/"+c.name)
}

// Store implements Sink. Somebody else who wrote meanwhile is a second feeder: the error says so, and nothing of theirs is lost.
func (c *configMap) Store(ctx context.Context, market, commitments []byte, m Memory) error {
	memory, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("what is to be remembered: %w", err)
	}
	want := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: c.name, Namespace: c.namespace, Labels: c.labels}, BinaryData: map[string][]byte{}}
	if c.last != nil {
		want = c.last.DeepCopy()
		if want.BinaryData == nil {
			want.BinaryData = map[string][]byte{}
		}
	}
	for name, text := range map[string][]byte{KeyMarket: market, KeyCommitments: commitments, keyMemory: memory} {
		if text == nil {
			continue
		}
		if want.BinaryData[name], err = pack(text); err != nil {
			return err
		}
		delete(want.Data, name)
	}
	var have corev1.ConfigMap
	if c.last == nil {
		err = c.core.Post().Namespace(c.namespace).Resource("configmaps").Body(want).Do(ctx).Into(&have)
	} else {
		err = c.core.Put().Namespace(c.namespace).Resource("configmaps").Name(c.name).Body(want).Do(ctx).Into(&have)
	}
	if status := agent.StatusOf(err); status == http.StatusConflict {
		return fmt.Errorf("writing ConfigMap %s/%s: somebody else wrote it meanwhile; is there a second feeder? %w", c.namespace, c.name, err)
	}
	if err != nil {
		return fmt.Errorf("writing ConfigMap %s/%s: %w", c.namespace, c.name, err)
	}
	c.last = &have
	return nil
}

// Dir keeps files, for people to look at and for other ways to a cluster.
type Dir string

// Load implements Sink.
func (d Dir) Load(context.Context) (m Memory, err error) {
	raw, err := os.ReadFile(filepath.Join(string(d), keyMemory))
	if errors.Is(err, fs.ErrNotExist) {
		return m.whole(), nil
	}
	if err != nil {
		return m, fmt.Errorf("what the last run remembered: %w", err)
	}
	return remembered(raw, filepath.Join(string(d), keyMemory))
}

// Store implements Sink. Each file is replaced whole; the memory, with the number of the documents, comes first: a number is never used twice.
func (d Dir) Store(_ context.Context, market, commitments []byte, m Memory) error {
	memory, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("what is to be remembered: %w", err)
	}
	if memory, err = pack(memory); err != nil {
		return err
	}
	if err := os.MkdirAll(string(d), 0o750); err != nil {
		return fmt.Errorf("make the directory: %w", err)
	}
	for _, f := range []struct {
		name string
		data []byte
	}{{keyMemory, memory}, {KeyMarket, market}, {KeyCommitments, commitments}} {
		if f.data == nil {
			continue
		}
		path := filepath.Join(string(d), f.name)
		if err := os.WriteFile(path+".new", f.data, 0o600); err != nil {
			return fmt.Errorf("write %s: %w", path, err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			return fmt.Errorf("write %s: %w", path, err)
		}
	}
	return nil
}

func pack(text []byte) ([]byte, error) {
	var b bytes.Buffer
	w := gzip.NewWriter(&b) // no name and no time: the same text gives the same bytes
	if _, err := w.Write(text); err != nil {
		return nil, fmt.Errorf("compress: %w", err)
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("compress: %w", err)
	}
	return b.Bytes(), nil
}

// maxMemory bounds what is unpacked.
const maxMemory = 16 << 20

// remembered reads a memory. A damaged one is an error: starting anew would number documents that karpenops has seen already.
func remembered(raw []byte, where string) (m Memory, err error) {
	if len(raw) == 0 {
		return m.whole(), nil
	}
	r, err := gzip.NewReader(bytes.NewReader(raw))
	if err != nil {
		return m, fmt.Errorf("%s: %s: %w; delete it to start anew", where, keyMemory, err)
	}
	text, err := io.ReadAll(io.LimitReader(r, maxMemory))
	if err == nil {
		err = json.Unmarshal(text, &m)
	}
	if err != nil {
		return m, fmt.Errorf("%s: %s: %w", where, keyMemory, err)
	}
	return m.whole(), nil
}

// agentKinds are what its client knows.
func agentKinds() []runtime.Object { return []runtime.Object{&corev1.ConfigMap{}} }

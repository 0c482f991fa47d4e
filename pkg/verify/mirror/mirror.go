// Package mirror copies artifacts with the signatures that hang on them: between registries, into OCI image layouts on disk, and
// out of those. Bytes, media types and digests stay as they are, so that what verified before verifies after.
package mirror

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nopsctl/nopsctl/pkg/verify/oci"
	"github.com/nopsctl/nopsctl/pkg/verify/ref"
	"github.com/nopsctl/nopsctl/pkg/verify/verdict"
)

// To is where artifacts are copied to.
type To interface {
	// Has says whether something is there already.
	Has(ctx context.Context, at ref.Reference, d ocispec.Descriptor) (bool, error)
	// PutBlob stores bytes that have been compared by the time the last of them is read.
	PutBlob(ctx context.Context, at ref.Reference, d ocispec.Descriptor, content io.Reader) error
	// PutManifest stores a manifest under its digest, or under a tag. A tag that is the digest means that it stands for itself,
	// and not for a part of something. It says whether anything had to be changed for that.
	PutManifest(ctx context.Context, at ref.Reference, d ocispec.Descriptor, manifest []byte, tag string) (bool, error)
	// Read is the same place for reading. The function ends that.
	Read(ctx context.Context) (oci.Shelf, func(), error)
}

// Item is one artifact to copy.
type Item struct {
	Canonical ref.Reference // the name that policies know it by
	From      ref.Reference // where it is read: the same, or at a mirror
	To        ref.Reference // where it is to be; its tag counts, its digest does not
}

// Progress is one thing that is done.
type Progress struct {
	Item    Item
	What    string // "blob", "manifest", "signature", "tag", "done", "failed"
	Digest  string
	Bytes   int64 // sent; zero where it was there already
	Present bool
	Err     error // of "failed"
}

// Options say how to copy.
type Options struct {
	Parallel int            // artifacts at a time; zero: 3. Each moves up to 4 blobs at a time.
	Idle     time.Duration  // how long a transfer may stand still; zero: one minute
	Observe  func(Progress) // nil: silence. Never called twice at a time.
	// Evidence writes what is known of revocation at this moment, of everything that was copied, for sites that cannot ask. It
	// is kept in the layout as EvidenceFile, and written after all else. Nil: none is kept. Layouts alone have room for it.
	Evidence func(ctx context.Context, w io.Writer, copied []Copied) error
}

// EvidenceFile is the name of evidence in a layout.
const EvidenceFile = "nopsctl-evidence.json"

// Copied is what became of one item.
type Copied struct {
	Item
	Artifact   oci.Artifact
	Signatures []string // digests of the manifests of signatures that are there now
	Rewritten  []string // of those, the ones stored in an older form, as the registry takes no other (see older)
	Others     int      // what hangs on it and is no signature: not copied
	Broken     []verdict.Finding
	Sent       int64 // bytes
	Present    int64 // bytes that were there before
	Err        error // nil: all of it is there; else a *oci.Error where a registry is to blame
}

// Report is what a run came to.
type Report struct {
	Copied     []Copied // in the order of the items
	Signatures int
	Sent       int64
	Present    int64
}

// Copy copies items. It goes on where one fails; the error is the first in the order of the items, and the rest are in the
// report. A run that was cut off is taken up by running it again: what is there is not sent twice. The tag is written last, so
// that whoever sees it sees all of it, signatures included.
func Copy(ctx context.Context, from oci.Shelf, to To, items []Item, o Options) (Report, error) {
	if o.Parallel <= 0 {
		o.Parallel = 3
	}
	if o.Idle <= 0 {
		o.Idle = time.Minute
	}
	keeper, hasRoom := to.(interface {
		Keep(name string, write func(io.Writer) error) error
	})
	if o.Evidence != nil && !hasRoom {
		return Report{}, errors.New("mirror: evidence of revocation is kept in a layout on disk; a registry has no room for it")
	}
	c := &copier{from: from, to: to, o: o, locks: map[string]*sync.Mutex{}}
	report := Report{Copied: make([]Copied, len(items))}
	parallel(len(items), o.Parallel, func(i int) {
		report.Copied[i] = c.item(ctx, items[i])
	})
	var first error
	var good []Copied
	for _, one := range report.Copied {
		report.Sent += one.Sent
		report.Present += one.Present
		if one.Err != nil {
			if first == nil {
				first = one.Err
			}
			continue
		}
		report.Signatures += len(one.Signatures)
		good = append(good, one)
	}
	if o.Evidence != nil && len(good) > 0 {
		if err := keeper.Keep(EvidenceFile, func(w io.Writer) error { return o.Evidence(ctx, w, good) }); err != nil && first == nil {
			first = fmt.Errorf("mirror: keep evidence of revocation: %w", err)
		}
	}
	return report, first
}

type copier struct {
	from  oci.Shelf
	to    To
	o     Options
	mu    sync.Mutex // of Observe, and of locks
	locks map[string]*sync.Mutex
}

const (
	maxManifest = 4 << 20 // as in pkg/verify/oci
	maxDepth    = 3       // of indexes in indexes; honest ones have one
)

// node is a manifest with what it needs.
type node struct {
	descriptor ocispec.Descriptor
	manifest   []byte
	blobs      []ocispec.Descriptor
	children   []ocispec.Descriptor // of an index
	signatures []signature          // that hang on it
}

type signature struct {
	node

	tag string // of .sig
}

// item copies one artifact: blobs, then the manifests that name them, then what hangs on those, then the tag.
func (c *copier) item(ctx context.Context, item Item) Copied {
	done := Copied{Item: item}
	if done.Err = c.do(ctx, &done); done.Err != nil {
		c.tell(Progress{Item: item, What: "failed", Err: done.Err})
		return done
	}
	c.tell(Progress{Item: item, What: "done", Digest: done.Artifact.Descriptor.Digest.String(), Bytes: done.Sent, Present: done.Sent == 0})
	return done
}

func (c *copier) do(ctx context.Context, done *Copied) error {
	var err error
	if done.Artifact, err = c.from.Resolve(ctx, done.Canonical, done.From); err != nil {
		return err
	}
	nodes, err := c.graph(ctx, done, done.Artifact, 0)
	if err != nil {
		return err
	}
	sums := &sums{done: done}
	for _, n := range nodes { // children stand before their index
		if err := c.put(ctx, done.Item, n, "", "manifest", sums); err != nil {
			return err
		}
		var hanging []oci.Attachment
		for _, s := range n.signatures {
			at, err := c.hang(ctx, done, s, sums)
			if err != nil {
				return err
			}
			hanging = append(hanging, at)
		}
		if err := c.attach(ctx, done.To, n.descriptor, hanging); err != nil {
			return err
		}
	}
	tag := done.To.Tag
	if tag == "" {
		tag = done.Artifact.Descriptor.Digest.String()
	}
	return c.putManifest(ctx, done.Item, nodes[len(nodes)-1], tag, "tag", sums)
}

// graph is all that an artifact is made of, in an order in which it can be stored.
func (c *copier) graph(ctx context.Context, done *Copied, a oci.Artifact, depth int) ([]node, error) {
	if depth > maxDepth {
		return nil, fmt.Errorf("copy %s: indexes inside indexes, more than %d deep", done.From, maxDepth)
	}
	var nodes []node
	top, err := c.node(ctx, done, a)
	if err != nil {
		return nil, err
	}
	for _, child := range top.children {
		if !oci.IsManifest(child.MediaType) {
			return nil, fmt.Errorf("copy %s: the index lists %s, which is no manifest but %q", done.From, child.Digest, child.MediaType)
		}
		data, err := c.from.Fetch(ctx, a.Location, child, maxManifest)
		if err != nil {
			return nil, err
		}
		below, err := c.graph(ctx, done, oci.Artifact{Canonical: a.Canonical, Location: a.Location.At(child.Digest.String()), Descriptor: child, Manifest: data}, depth+1)
		if err != nil {
			return nil, err
		}
		nodes = append(nodes, below...)
	}
	return append(nodes, top), nil
}

// node reads what hangs on a manifest. A place that cannot be looked at stops the copy: it would be one without signatures.
func (c *copier) node(ctx context.Context, done *Copied, a oci.Artifact) (node, error) {
	n := node{descriptor: ocispec.Descriptor{MediaType: a.Descriptor.MediaType, Digest: a.Descriptor.Digest, Size: a.Descriptor.Size}, manifest: a.Manifest}
	var err error
	if n.blobs, n.children, err = content(n.descriptor, a.Manifest); err != nil {
		return n, fmt.Errorf("copy %s: %w", done.From, err)
	}
	hanging, rest, err := c.from.Attachments(ctx, a)
	if err != nil {
		return n, err
	}
	if len(rest.Failed) > 0 {
		return n, &oci.Error{Finding: rest.Failed[0]}
	}
	done.Others += rest.Others
	done.Broken = append(done.Broken, rest.Broken...)
	for _, h := range hanging {
		s := signature{node: node{descriptor: h.Descriptor, manifest: h.Manifest}}
		if s.blobs, _, err = content(h.Descriptor, h.Manifest); err != nil {
			return n, fmt.Errorf("copy %s: %w", done.From, err)
		}
		if h.From == oci.PlaceSigTag {
			s.tag = tagOf(a.Descriptor.Digest) + ".sig"
		}
		n.signatures = append(n.signatures, s)
	}
	return n, nil
}

func tagOf(sum digest.Digest) string { return strings.Replace(sum.String(), ":", "-", 1) }

// content is what a manifest names: its configuration and its layers, except those that may not be passed on; its children.
func content(d ocispec.Descriptor, manifest []byte) (blobs, children []ocispec.Descriptor, err error) {
	var doc struct {
		Config    *ocispec.Descriptor  `json:"config"`
		Layers    []ocispec.Descriptor `json:"layers"`
		Manifests []ocispec.Descriptor `json:"manifests"`
	}
	if err := json.Unmarshal(manifest, &doc); err != nil {
		return nil, nil, fmt.Errorf("manifest %s: %w", d.Digest, err)
	}
	seen := map[digest.Digest]bool{}
	if doc.Config != nil {
		doc.Layers = append([]ocispec.Descriptor{*doc.Config}, doc.Layers...)
	}
	for _, l := range doc.Layers {
		if strings.Contains(l.MediaType, "nondistributable") || strings.Contains(l.MediaType, ".foreign.") || seen[l.Digest] {
			continue
		}
		if err := l.Digest.Validate(); err != nil || l.Size < 0 {
			return nil, nil, fmt.Errorf("manifest %s: names a blob without a digest or a size", d.Digest)
		}
		seen[l.Digest] = true
		blobs = append(blobs, ocispec.Descriptor{MediaType: "application/octet-stream", Digest: l.Digest, Size: l.Size})
	}
	return blobs, doc.Manifests, nil
}

// sums adds up what is sent from several blobs at a time.
type sums struct {
	mu   sync.Mutex
	done *Copied
}

func (s *sums) add(n int64, present bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if present {
		s.done.Present += n
	} else {
		s.done.Sent += n
	}
}

// put stores a manifest's blobs, then the manifest.
func (c *copier) put(ctx context.Context, item Item, n node, tag, what string, sums *sums) error {
	failures := make([]error, len(n.blobs))
	parallel(len(n.blobs), 4, func(i int) {
		failures[i] = c.blob(ctx, item, n.blobs[i], sums)
	})
	for _, err := range failures {
		if err != nil {
			return err
		}
	}
	return c.putManifest(ctx, item, n, tag, what, sums)
}

func (c *copier) putManifest(ctx context.Context, item Item, n node, tag, what string, sums *sums) error {
	ctx, cancel := context.WithTimeout(ctx, c.o.Idle)
	defer cancel()
	sent, err := c.to.PutManifest(ctx, item.To, n.descriptor, n.manifest, tag)
	if err != nil {
		return refusal(item.To, err)
	}
	bytes := n.descriptor.Size
	if tag == "" || what == "signature" {
		sums.add(bytes, !sent)
	}
	if !sent {
		bytes = 0
	}
	c.tell(Progress{Item: item, What: what, Digest: n.descriptor.Digest.String(), Bytes: bytes, Present: !sent})
	return nil
}

// blob moves one, unless it is there. A transfer that breaks off is tried again.
func (c *copier) blob(ctx context.Context, item Item, d ocispec.Descriptor, sums *sums) error {
	lock := c.lock(d.Digest.String())
	lock.Lock()
	defer lock.Unlock()
	const attempts = 3
	for attempt := 1; ; attempt++ {
		present, err := c.move(ctx, item, d)
		if err == nil {
			sums.add(d.Size, present)
			moved := d.Size
			if present {
				moved = 0
			}
			c.tell(Progress{Item: item, What: "blob", Digest: d.Digest.String(), Bytes: moved, Present: present})
			return nil
		}
		if attempt == attempts || ctx.Err() != nil || !passing(err) {
			return err
		}
	}
}

// move streams a blob, comparing on the way. It gives up when nothing has moved for a while.
func (c *copier) move(ctx context.Context, item Item, d ocispec.Descriptor) (present bool, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	timer := time.AfterFunc(c.o.Idle, func() { cancel(context.DeadlineExceeded) })
	defer timer.Stop()
	defer func() {
		if err != nil && errors.Is(context.Cause(ctx), context.DeadlineExceeded) {
			err = oci.Explain(item.To, fmt.Errorf("%w: %w", context.DeadlineExceeded, err))
		}
	}()
	if present, err = c.to.Has(ctx, item.To, d); err != nil || present {
		return present, orNil(item.To, err)
	}
	body, err := c.from.Open(ctx, item.From, d)
	if err != nil {
		return false, err
	}
	defer body.Close()
	compared := &comparing{from: body, want: d, sum: d.Digest.Verifier(), moved: func() { timer.Reset(c.o.Idle) }}
	if err := c.to.PutBlob(ctx, item.To, d, compared); err != nil {
		if compared.err != nil {
			return false, oci.Explain(item.From, compared.err)
		}
		return false, refusal(item.To, err)
	}
	return false, nil
}

func orNil(at ref.Reference, err error) error {
	if err == nil {
		return nil
	}
	return refusal(at, err)
}

// comparing holds the last bytes back until all are known to be the right ones, so that wrong ones are never all sent.
type comparing struct {
	from  io.Reader
	want  ocispec.Descriptor
	sum   digest.Verifier
	n     int64
	err   error // of the source
	moved func()
}

// Read implements io.Reader.
func (c *comparing) Read(p []byte) (int, error) {
	if c.err != nil {
		return 0, c.err
	}
	if left := c.want.Size - c.n; int64(len(p)) > left {
		p = p[:left]
	}
	if len(p) == 0 && c.n == c.want.Size {
		if c.n == 0 && !c.sum.Verified() {
			c.err = c.lied()
			return 0, c.err
		}
		return 0, io.EOF
	}
	n, err := c.from.Read(p)
	c.n += int64(n)
	_, _ = c.sum.Write(p[:n])
	c.moved()
	switch {
	case c.n == c.want.Size && !c.sum.Verified():
		c.err = c.lied()
		return 0, c.err
	case c.n == c.want.Size:
		return n, nil
	case errors.Is(err, io.EOF):
		c.err = io.ErrUnexpectedEOF
		return 0, c.err
	case err != nil:
		c.err = err
	}
	return n, err
}

func (c *comparing) lied() error {
	return &oci.Error{Finding: verdict.Fail(verdict.RegistryLied, "other bytes were served for %s", c.want.Digest)}
}

// hang stores a signature. Where a registry refuses its form, an older one is stored.
func (c *copier) hang(ctx context.Context, done *Copied, s signature, sums *sums) (oci.Attachment, error) {
	err := c.put(ctx, done.Item, s.node, s.tag, "signature", sums)
	if isRefusedForm(err) {
		if changed, ok := older(s.node); ok {
			s.node = changed
			done.Rewritten = append(done.Rewritten, s.descriptor.Digest.String())
			err = c.put(ctx, done.Item, s.node, s.tag, "signature", sums)
		}
	}
	if err != nil {
		return oci.Attachment{}, err
	}
	done.Signatures = append(done.Signatures, s.descriptor.Digest.String())
	return oci.Attachment{Descriptor: s.descriptor, Manifest: s.manifest}, nil
}

// older is a signature's manifest without what OCI 1.1 added, for registries that refuse that. The manifest gets another digest;
// the image and the signature inside keep theirs, and the fallback tag says what it belongs to.
func older(n node) (node, bool) {
	var doc map[string]json.RawMessage
	var kind string
	var config map[string]json.RawMessage
	if json.Unmarshal(n.manifest, &doc) != nil || json.Unmarshal(doc["config"], &config) != nil {
		return n, false
	}
	_, hasSubject := doc["subject"]
	_, hasType := doc["artifactType"]
	if !hasSubject && !hasType {
		return n, false
	}
	if hasType && json.Unmarshal(doc["artifactType"], &kind) == nil && kind != "" {
		config["mediaType"] = doc["artifactType"]
	}
	delete(doc, "subject")
	delete(doc, "artifactType")
	var err error
	if doc["config"], err = json.Marshal(config); err != nil {
		return n, false
	}
	data, err := json.Marshal(doc)
	if err != nil {
		return n, false
	}
	n.manifest = data
	n.descriptor.Digest, n.descriptor.Size, n.descriptor.ArtifactType = digest.FromBytes(data), int64(len(data)), ""
	return n, true
}

// attach sees to it that the signatures of a manifest are found where they are now. A place with the referrers API has listed
// them by their subject; for others, the fallback tag lists them.
func (c *copier) attach(ctx context.Context, to ref.Reference, subject ocispec.Descriptor, hanging []oci.Attachment) error {
	if len(hanging) == 0 {
		return nil
	}
	lock := c.lock(to.Name() + ":" + tagOf(subject.Digest))
	lock.Lock()
	defer lock.Unlock()
	for last := false; ; last = true {
		missing, err := c.missing(ctx, to, subject, hanging)
		if err != nil || len(missing) == 0 {
			return err
		}
		if last {
			return fmt.Errorf("copy to %s: %d of %d signatures were stored and are not found there", to, len(missing), len(hanging))
		}
		if err := c.fallback(ctx, to, subject, missing); err != nil {
			return err
		}
	}
}

func (c *copier) missing(ctx context.Context, to ref.Reference, subject ocispec.Descriptor, hanging []oci.Attachment) ([]oci.Attachment, error) {
	there, done, err := c.to.Read(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	found, rest, err := there.Attachments(ctx, oci.Artifact{Canonical: to, Location: to.At(subject.Digest.String()), Descriptor: subject})
	if err != nil {
		return nil, err
	}
	known := map[digest.Digest]bool{}
	for _, f := range found {
		known[f.Descriptor.Digest] = true
	}
	var missing []oci.Attachment
	for _, h := range hanging {
		if !known[h.Descriptor.Digest] {
			missing = append(missing, h)
		}
	}
	if len(missing) > 0 && len(rest.Failed) > 0 {
		return nil, &oci.Error{Finding: rest.Failed[0]}
	}
	return missing, nil
}

// fallback adds to the index under the fallback tag.
func (c *copier) fallback(ctx context.Context, to ref.Reference, subject ocispec.Descriptor, missing []oci.Attachment) error {
	there, done, err := c.to.Read(ctx)
	if err != nil {
		return err
	}
	defer done()
	tag := tagOf(subject.Digest)
	index := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{}}
	index.SchemaVersion = 2
	at := ref.Reference{Registry: to.Registry, Repository: to.Repository, Tag: tag}
	old, err := there.Resolve(ctx, at, at)
	var failed *oci.Error
	switch {
	case err == nil && old.Descriptor.MediaType != ocispec.MediaTypeImageIndex:
		return fmt.Errorf("copy to %s: there is something else under the tag %s, where signatures are listed", to, tag)
	case err == nil:
		if err := json.Unmarshal(old.Manifest, &index); err != nil {
			return fmt.Errorf("copy to %s: index under the tag %s: %w", to, tag, err)
		}
	case !errors.As(err, &failed) || failed.Finding.Reason != verdict.NotFound:
		return err
	}
	for _, m := range missing {
		d := m.Descriptor
		var doc ocispec.Manifest
		if err := json.Unmarshal(m.Manifest, &doc); err != nil {
			return fmt.Errorf("copy to %s: signature %s: %w", to, d.Digest, err)
		}
		d.ArtifactType, d.Annotations = doc.ArtifactType, doc.Annotations
		if d.ArtifactType == "" {
			d.ArtifactType = doc.Config.MediaType
		}
		index.Manifests = append(index.Manifests, d)
	}
	data, err := json.Marshal(index)
	if err != nil {
		return fmt.Errorf("copy to %s: %w", to, err)
	}
	d := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageIndex, Digest: digest.FromBytes(data), Size: int64(len(data))}
	if _, err := c.to.PutManifest(ctx, to, d, data, tag); err != nil {
		return refusal(to, err)
	}
	return nil
}

func (c *copier) lock(key string) *sync.Mutex {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.locks[key] == nil {
		c.locks[key] = &sync.Mutex{}
	}
	return c.locks[key]
}

func (c *copier) tell(p Progress) {
	if c.o.Observe == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.o.Observe(p)
}

// parallel calls f for 0 to n-1, at most limit at a time.
func parallel(n, limit int, f func(int)) {
	var wait sync.WaitGroup
	slots := make(chan struct{}, limit)
	for i := range n {
		slots <- struct{}{}
		wait.Go(func() {
			defer func() { <-slots }()
			f(i)
		})
	}
	wait.Wait()
}

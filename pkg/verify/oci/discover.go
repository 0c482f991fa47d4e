package oci

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nopsctl/nopsctl/pkg/verify/ref"
	"github.com/nopsctl/nopsctl/pkg/verify/verdict"
)

// candidate is a manifest that hangs on an artifact, or is said to.
type candidate struct {
	descriptor ocispec.Descriptor
	from       string
	data       []byte
	signatures []Signature
	err        error
	rank       int
	created    time.Time
}

// discovery is one pass over what hangs on an artifact.
type discovery struct {
	shelf      shelf
	artifact   Artifact
	limits     Limits
	hints      hints
	found      Signatures // Found stays empty until the envelopes are read
	candidates []*candidate
}

// signatures reads all signatures of an artifact. It takes three round trips that depend on each other, however many
// signatures there are: the lists, the manifests, the envelopes.
func signatures(ctx context.Context, s shelf, a Artifact, l Limits, prefer []string) (Signatures, error) {
	d := discover(ctx, s, a, l, prefer)
	d.read(ctx)
	return d.found, nil
}

// discover finds the manifests of signatures. Each of its steps has its part of the time: one place that never answers leaves
// time for the others.
func discover(ctx context.Context, s shelf, a Artifact, l Limits, prefer []string) *discovery {
	d := &discovery{shelf: s, artifact: a, limits: l, hints: hintsOf(prefer)}
	d.list(ctx)
	d.load(ctx)
	return d
}

// listed is what one place holds.
type listed struct {
	descriptors []ocispec.Descriptor
	manifest    *served // of the .sig tag
	looked      bool
	err         error
}

// list asks the three places, all at once.
func (d *discovery) list(ctx context.Context) {
	ctx, cancel := share(ctx, 3)
	defer cancel()
	tag := strings.Replace(d.artifact.Descriptor.Digest.String(), ":", "-", 1)
	at := d.artifact.Location
	places := []string{PlaceReferrers, PlaceFallback, PlaceSigTag}
	answers := make([]listed, len(places))
	each(len(places), len(places), func(i int) {
		a := &answers[i]
		switch places[i] {
		case PlaceReferrers:
			a.descriptors, a.looked, a.err = d.shelf.referrers(ctx, at, d.artifact.Descriptor.Digest.String(), d.limits.Referrers)
		case PlaceFallback:
			a.descriptors, a.err = d.fallback(ctx, tag)
			a.looked = a.err == nil
		case PlaceSigTag:
			got, err := d.shelf.manifest(ctx, at, tag+".sig")
			a.looked = err == nil || reasonAt(err) == verdict.NotFound
			if err == nil {
				a.manifest = &got
			} else if !a.looked {
				a.err = err
			}
		}
	})
	seen := map[content]bool{}
	for i, a := range answers {
		if a.looked && a.err == nil {
			d.found.Looked = append(d.found.Looked, places[i])
		}
		if a.err != nil {
			d.fail(places[i], a.err)
		}
		for _, one := range a.descriptors {
			d.add(seen, &candidate{descriptor: one, from: places[i]})
		}
		if a.manifest != nil {
			d.add(seen, &candidate{from: places[i], data: a.manifest.data, descriptor: ocispec.Descriptor{
				MediaType: a.manifest.mediaType, Digest: a.manifest.digest, Size: int64(len(a.manifest.data)), ArtifactType: typeSimple,
			}})
		}
	}
	d.sort()
	if over := len(d.candidates) - d.limits.Referrers; over > 0 {
		d.fail("", failf(verdict.LimitReached, nil, "has more than %d manifests hanging on the image", d.limits.Referrers))
		d.candidates = d.candidates[:d.limits.Referrers]
	}
}

// fallback reads the index that stands for the referrers API. None is no error.
func (d *discovery) fallback(ctx context.Context, tag string) ([]ocispec.Descriptor, error) {
	got, err := d.shelf.manifest(ctx, d.artifact.Location, tag)
	if err != nil {
		if reasonAt(err) == verdict.NotFound {
			return nil, nil
		}
		return nil, err
	}
	doc, err := parse(got.data, got.mediaType)
	if err != nil {
		return nil, err
	}
	if !isIndex(doc.MediaType) {
		return nil, failf(verdict.RegistryOdd, nil, "holds no index under %s", tag)
	}
	if over := len(doc.Manifests) - d.limits.Referrers; over > 0 {
		// The newest stand at its end.
		return doc.Manifests[over:], failf(verdict.LimitReached, nil, "lists more than %d manifests under %s", d.limits.Referrers, tag)
	}
	return doc.Manifests, nil
}

// reasonAt is the reason of an error as a finding would give it.
func reasonAt(err error) verdict.Reason {
	reason, _ := explain(err)
	return reason
}

// content is what is read once. The size belongs to it: where one list gives a wrong one, the other's is tried all the same.
type content struct {
	digest digest.Digest
	size   int64
}

func (d *discovery) add(seen map[content]bool, c *candidate) {
	sum := c.descriptor.Digest
	if is := (content{sum, c.descriptor.Size}); seen[is] || sum == d.artifact.Descriptor.Digest {
		return
	} else {
		seen[is] = true
	}
	switch {
	case !ref.IsDigest(sum.String()) || c.descriptor.Size <= 0:
		d.broken("", failf(verdict.Malformed, nil, "lists under %s something without a SHA-256 digest or a size", c.from))
		return
	case c.descriptor.Size > d.limits.Manifest:
		d.broken(sum.String(), failf(verdict.LimitReached, nil, "lists %s with %d bytes, of at most %s", sum, c.descriptor.Size, size(d.limits.Manifest)))
		return
	case c.descriptor.MediaType == orasManifest || c.descriptor.MediaType == ociArtifact:
		d.found.Others++ // forms that were given up before they were a standard
		return
	}
	c.rank = d.hints.rank(c.descriptor.Annotations, c.descriptor.ArtifactType)
	c.created = createdAt(c.descriptor.Annotations)
	d.candidates = append(d.candidates, c)
}

// createdAt is when something says it was made.
func createdAt(notes map[string]string) time.Time {
	at, err := time.Parse(time.RFC3339, notes[ocispec.AnnotationCreated])
	if err != nil {
		return time.Time{}
	}
	return at
}

func (d *discovery) sort() {
	slices.SortStableFunc(d.candidates, func(a, b *candidate) int {
		return cmp.Or(cmp.Compare(a.rank, b.rank), b.created.Compare(a.created), cmp.Compare(a.descriptor.Digest, b.descriptor.Digest))
	})
}

// load reads the manifests and classifies them.
func (d *discovery) load(ctx context.Context) {
	ctx, cancel := share(ctx, 2)
	defer cancel()
	each(len(d.candidates), d.limits.Parallel, func(i int) {
		c := d.candidates[i]
		if c.data == nil {
			// Read as a manifest whatever the list calls it; the list's size is compared, too.
			as := c.descriptor
			as.MediaType = ocispec.MediaTypeImageManifest
			if c.data, c.err = fetch(ctx, d.shelf, d.artifact.Location, as, d.limits.Manifest); c.err != nil {
				return
			}
		}
		c.signatures, c.err = classify(c.data, c.descriptor, c.from)
	})
	kept := d.candidates[:0]
	for _, c := range d.candidates {
		switch {
		case reasonOf(c.err) == verdict.Malformed:
			d.broken(c.descriptor.Digest.String(), c.err)
		case c.err != nil:
			d.fail(c.from, c.err)
		case len(c.signatures) == 0:
			d.found.Others++
		default:
			notes := c.signatures[0].Annotations
			c.rank = d.hints.rank(notes, c.signatures[0].Blob.MediaType)
			if at := createdAt(notes); !at.IsZero() {
				c.created = at
			}
			kept = append(kept, c)
		}
	}
	d.candidates = kept
	d.sort()
}

// attachments are the manifests that carry signatures.
func (d *discovery) attachments() []Attachment {
	all := make([]Attachment, 0, len(d.candidates))
	for _, c := range d.candidates {
		all = append(all, Attachment{Descriptor: c.signatures[0].Manifest, Manifest: c.data, From: c.from})
	}
	return all
}

// read reads the envelopes, those first that are likeliest. Formats take turns, so that junk of one kind cannot push out the
// signatures of another.
func (d *discovery) read(ctx context.Context) {
	ordered := d.inTurns()
	if over := len(ordered) - d.limits.Candidates; over > 0 {
		d.broken("", failf(verdict.TooManyTried, nil, "has %d signatures hanging on the image, of which %d are tried", len(ordered), d.limits.Candidates))
		ordered = ordered[:d.limits.Candidates]
	}
	// Signatures of one key share their document with each other: it is read once.
	type blob struct {
		data []byte
		err  error
	}
	blobs, order := map[content]*blob{}, []content{}
	for _, s := range ordered {
		if is := (content{s.Blob.Digest, s.Blob.Size}); blobs[is] == nil {
			blobs[is] = &blob{}
			order = append(order, is)
		}
	}
	each(len(order), d.limits.Parallel, func(i int) {
		b := blobs[order[i]]
		b.data, b.err = fetch(ctx, d.shelf, d.artifact.Location, ocispec.Descriptor{Digest: order[i].digest, Size: order[i].size}, d.limits.Blob)
	})
	for _, s := range ordered {
		b := blobs[content{s.Blob.Digest, s.Blob.Size}]
		switch {
		case reasonOf(b.err) == verdict.Malformed || s.Blob.Size > d.limits.Blob:
			d.broken(s.ID(), b.err)
		case b.err != nil:
			d.fail(s.From, b.err)
		default:
			s.Payload = b.data
			d.found.Found = append(d.found.Found, s)
		}
	}
}

func (d *discovery) inTurns() []Signature {
	type turn struct {
		s          Signature
		rank, turn int
	}
	var all []turn
	turns := map[Format]int{}
	for _, c := range d.candidates {
		for _, s := range c.signatures {
			t := turn{s, c.rank, 0}
			if c.rank > 0 {
				t.turn = turns[s.Format]
				turns[s.Format]++
			}
			all = append(all, t)
		}
	}
	slices.SortStableFunc(all, func(a, b turn) int {
		return cmp.Or(cmp.Compare(min(a.rank, 1), min(b.rank, 1)), cmp.Compare(a.turn, b.turn))
	})
	signatures := make([]Signature, len(all))
	for i, t := range all {
		signatures[i] = t.s
	}
	return signatures
}

// fail notes a place that could not be looked at.
func (d *discovery) fail(place string, err error) {
	f := named(d.shelf.who(d.artifact.Location), err).Finding
	if place != "" {
		f.Message = place + ": " + f.Message
	}
	for _, known := range d.found.Failed {
		if known.Message == f.Message {
			return
		}
	}
	d.found.Failed = append(d.found.Failed, f)
}

// broken notes a candidate that cannot be read.
func (d *discovery) broken(id string, err error) {
	f := named(d.shelf.who(d.artifact.Location), err).Finding
	f.Signature = id
	d.found.Broken = append(d.found.Broken, f)
}

// each calls f for 0 to n-1, at most parallel at a time.
func each(n, parallel int, f func(int)) {
	var wait sync.WaitGroup
	slots := make(chan struct{}, max(parallel, 1))
	for i := range n {
		slots <- struct{}{}
		wait.Add(1)
		go func() {
			defer wait.Done()
			defer func() { <-slots }()
			f(i)
		}()
	}
	wait.Wait()
}

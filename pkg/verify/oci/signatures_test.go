package oci_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nopsctl/nopsctl/pkg/verify/oci"
	"github.com/nopsctl/nopsctl/pkg/verify/oci/ocitest"
	"github.com/nopsctl/nopsctl/pkg/verify/verdict"
)

// find resolves the tag 1.0.0 and looks for signatures.
func find(t *testing.T, r *ocitest.Registry, o oci.Options) oci.Signatures {
	t.Helper()
	s := oci.New(o)
	a, err := s.Resolve(t.Context(), published, r.Ref(repo, "1.0.0"))
	if err != nil {
		t.Fatal(err)
	}
	found, err := s.Signatures(t.Context(), a)
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func payloads(s oci.Signatures) []string {
	all := []string{}
	for _, f := range s.Found {
		all = append(all, string(f.Format)+" "+string(f.Payload)+" ("+f.From+")")
	}
	slices.Sort(all)
	return all
}

func reasons(all []verdict.Finding) []string {
	rs := []string{}
	for _, f := range all {
		rs = append(rs, string(f.Reason))
	}
	slices.Sort(rs)
	return rs
}

// TestSignaturesEverywhere: what hangs on an image is found wherever it hangs, whatever lists call it.
func TestSignaturesEverywhere(t *testing.T) {
	const empty = "application/vnd.oci.empty.v1+json"
	all := []string{oci.PlaceReferrers, oci.PlaceFallback, oci.PlaceSigTag}
	old := all[1:] // of a registry without the referrers API
	for _, c := range []struct {
		name    string
		classic bool // no referrers API
		hang    func(r *ocitest.Registry, image ocispec.Descriptor)
		want    []string
		others  int
		looked  []string
		reason  string
	}{
		{"nothing", false, func(*ocitest.Registry, ocispec.Descriptor) {}, []string{}, 0, all, "unsigned is an answer"},
		{"nothing, no referrers API", true, func(*ocitest.Registry, ocispec.Descriptor) {}, []string{}, 0, old, "404 on it is no failure"},
		{"Notary JWS", false, func(r *ocitest.Registry, image ocispec.Descriptor) {
			r.Sign(t, repo, image, ocitest.NotarySignature("envelope"))
		}, []string{"notary-jws envelope (referrers)"}, 0, all, ""},
		{"Notary COSE", false, func(r *ocitest.Registry, image ocispec.Descriptor) {
			r.Sign(t, repo, image, ocitest.Signature{Config: ocitest.Notary, Layer: ocitest.COSE, Layers: []string{"envelope"}})
		}, []string{"notary-cose envelope (referrers)"}, 0, all, ""},
		{"Notary by fallback tag", true, func(r *ocitest.Registry, image ocispec.Descriptor) {
			r.Fallback(t, repo, image, r.Sign(t, repo, image, ocitest.NotarySignature("envelope")))
		}, []string{"notary-jws envelope (fallback tag)"}, 0, old, ""},
		{"fallback tag beside a referrers API that lists nothing", false, func(r *ocitest.Registry, image ocispec.Descriptor) {
			s := ocitest.NotarySignature("older")
			s.NoSubject = true
			r.Fallback(t, repo, image, r.Sign(t, repo, image, s))
		}, []string{"notary-jws older (fallback tag)"}, 0, all, "signed before the registry had the API"},
		{"fallback tag that somebody emptied", true, func(r *ocitest.Registry, image ocispec.Descriptor) {
			r.Fallback(t, repo, image, r.Sign(t, repo, image, ocitest.NotarySignature("envelope")))
			r.Manifest(t, repo, ocitest.Tag(image), ocispec.MediaTypeImageIndex, map[string]any{"schemaVersion": 2, "mediaType": ocispec.MediaTypeImageIndex, "manifests": []ocispec.Descriptor{}})
		}, []string{}, 0, old, "whoever may write tags can make it unsigned, and no more"},
		{"in both lists", false, func(r *ocitest.Registry, image ocispec.Descriptor) {
			r.Fallback(t, repo, image, r.Sign(t, repo, image, ocitest.NotarySignature("envelope")))
		}, []string{"notary-jws envelope (referrers)"}, 0, all, "counted once"},
		{"cosign .sig tag", true, func(r *ocitest.Registry, image ocispec.Descriptor) { r.Cosign(t, repo, image, "a", "b", "a") },
			[]string{"cosign a (.sig tag)", "cosign a (.sig tag)", "cosign b (.sig tag)"}, 0, old, "each layer is a signature; two may sign the same document"},
		{"cosign signature as a referrer", false, func(r *ocitest.Registry, image ocispec.Descriptor) {
			r.Sign(t, repo, image, ocitest.Signature{Type: "application/vnd.dev.cosign.artifact.sig.v1+json", Layer: ocitest.Simple, Layers: []string{"a"}})
		}, []string{"cosign a (referrers)"}, 0, all, "cosign 2 with its OCI 1.1 mode"},
		{"sigstore bundles of every age", false, func(r *ocitest.Registry, image ocispec.Descriptor) {
			for age, kind := range []string{"application/vnd.dev.sigstore.bundle+json;version=0.1", "application/vnd.dev.sigstore.bundle+json;version=0.2", "application/vnd.dev.sigstore.bundle+json;version=0.3", ocitest.Bundle} {
				r.Sign(t, repo, image, ocitest.Signature{Type: kind, Layer: kind, Layers: []string{fmt.Sprint("form ", age)}})
			}
		}, []string{"sigstore-bundle form 0 (referrers)", "sigstore-bundle form 1 (referrers)", "sigstore-bundle form 2 (referrers)", "sigstore-bundle form 3 (referrers)"}, 0, all, "of whichever version"},
		{"bundle that the list calls empty", true, func(r *ocitest.Registry, image ocispec.Descriptor) {
			b := r.Sign(t, repo, image, ocitest.BundleSignature("bundle"))
			b.ArtifactType = empty
			r.Fallback(t, repo, image, b)
		}, []string{"sigstore-bundle bundle (fallback tag)"}, 0, old, "as one large registry writes it: a filter by artifactType finds none"},
		{"bundle that the list calls an SBOM", true, func(r *ocitest.Registry, image ocispec.Descriptor) {
			b := r.Sign(t, repo, image, ocitest.BundleSignature("bundle"))
			b.ArtifactType = "application/spdx+json"
			r.Fallback(t, repo, image, b)
		}, []string{"sigstore-bundle bundle (fallback tag)"}, 0, old, "a list must not be able to hide one"},
		{"an SBOM that the list calls a signature", true, func(r *ocitest.Registry, image ocispec.Descriptor) {
			b := r.Sign(t, repo, image, ocitest.Signature{Type: "application/spdx+json", Layer: "text/spdx", Layers: []string{"sbom"}})
			b.ArtifactType = ocitest.Notary
			r.Fallback(t, repo, image, b)
		}, []string{}, 1, old, "nor make one"},
		{"attestations and SBOMs", false, func(r *ocitest.Registry, image ocispec.Descriptor) {
			r.Sign(t, repo, image, ocitest.Signature{Type: "application/spdx+json", Layer: "text/spdx", Layers: []string{"sbom"}})
			r.Sign(t, repo, image, ocitest.Signature{Type: "application/vnd.in-toto+json", Layer: "application/vnd.in-toto+json", Layers: []string{"provenance"}})
			r.Sign(t, repo, image, ocitest.Signature{Type: ocitest.Bundle, Layer: ocitest.Bundle, Layers: []string{"slsa"}, Annotations: map[string]string{"dev.sigstore.bundle.predicateType": "https://slsa.dev/provenance/v1"}})
		}, []string{"sigstore-bundle slsa (referrers)"}, 2, all, "an attestation in a bundle is for the engine to refuse; the rest are counted"},
		{"old artifact manifests", true, func(r *ocitest.Registry, image ocispec.Descriptor) {
			for _, kind := range []string{"application/vnd.cncf.oras.artifact.manifest.v1+json", "application/vnd.oci.artifact.manifest.v1+json"} {
				old := r.Manifest(t, repo, "", kind, map[string]any{"mediaType": kind, "artifactType": ocitest.Notary, "blobs": []any{}})
				r.Fallback(t, repo, image, old)
			}
		}, []string{}, 1, old, "given up before they were a standard"},
		{"everything at once", false, func(r *ocitest.Registry, image ocispec.Descriptor) {
			r.Sign(t, repo, image, ocitest.NotarySignature("n"))
			r.Sign(t, repo, image, ocitest.BundleSignature("b"))
			r.Cosign(t, repo, image, "c")
			s := ocitest.NotarySignature("older")
			s.NoSubject = true
			r.Fallback(t, repo, image, r.Sign(t, repo, image, s))
		}, []string{"cosign c (.sig tag)", "notary-jws n (referrers)", "notary-jws older (fallback tag)", "sigstore-bundle b (referrers)"}, 0, all, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := ocitest.New(t, !c.classic)
			image := r.Image(t, repo, "1.0.0", "one", nil)
			neighbour := r.Image(t, repo, "2.0.0", "two", nil)
			r.Sign(t, repo, neighbour, ocitest.NotarySignature("about something else"))
			c.hang(r, image)
			got := find(t, r, oci.Options{})
			if diff := cmp.Diff(c.want, payloads(got)); diff != "" {
				t.Errorf("%s: %s", c.reason, diff)
			}
			if got.Others != c.others || len(got.Broken)+len(got.Failed) > 0 {
				t.Errorf("%d others, broken %v, failed %v; want %d others: %s", got.Others, got.Broken, got.Failed, c.others, c.reason)
			}
			if diff := cmp.Diff(c.looked, got.Looked); diff != "" {
				t.Errorf("looked: %s", diff)
			}
		})
	}
}

// TestCosignLayers: the annotations of each layer stay with its signature, and each has a name of its own.
func TestCosignLayers(t *testing.T) {
	r := ocitest.New(t, true)
	image := r.Image(t, repo, "1.0.0", "one", nil)
	manifest := r.Cosign(t, repo, image, "same", "same")
	got := find(t, r, oci.Options{}).Found
	if len(got) != 2 {
		t.Fatalf("%d signatures", len(got))
	}
	for i, want := range []string{manifest.Digest.String(), manifest.Digest.String() + "#1"} {
		if got[i].ID() != want || got[i].Blob.Annotations["dev.cosignproject.cosign/signature"] != fmt.Sprintf("signature %d", i) {
			t.Errorf("%s with %v; want %s", got[i].ID(), got[i].Blob.Annotations, want)
		}
	}
}

// TestPoison: one manifest built to break the reader is a finding of its own, and hides nothing (a run of notation fails on it).
func TestPoison(t *testing.T) {
	for _, c := range []struct {
		name   string
		poison func(r *ocitest.Registry, image ocispec.Descriptor) ocispec.Descriptor
		broken []string
		failed []string
		reason string
	}{
		{"two envelopes in one manifest", func(r *ocitest.Registry, image ocispec.Descriptor) ocispec.Descriptor {
			return r.Sign(t, repo, image, ocitest.Signature{Config: ocitest.Notary, Layer: ocitest.JWS, Layers: []string{"a", "b"}})
		}, []string{"malformed-signature"}, []string{}, "the specification wants one"},
		{"no envelope", func(r *ocitest.Registry, image ocispec.Descriptor) ocispec.Descriptor {
			return r.Sign(t, repo, image, ocitest.Signature{Config: ocitest.Notary, Layer: "text/plain", Layers: []string{"a"}})
		}, []string{"malformed-signature"}, []string{}, ""},
		{"a bundle without a bundle", func(r *ocitest.Registry, image ocispec.Descriptor) ocispec.Descriptor {
			return r.Sign(t, repo, image, ocitest.Signature{Type: ocitest.Bundle, Layer: "text/plain", Layers: []string{"a"}})
		}, []string{"malformed-signature"}, []string{}, ""},
		{"no JSON", func(r *ocitest.Registry, _ ocispec.Descriptor) ocispec.Descriptor {
			return r.Manifest(t, repo, "", ocispec.MediaTypeImageManifest, []byte("\x00\x01 junk"))
		}, []string{"malformed-signature"}, []string{}, ""},
		{"JSON of another kind", func(r *ocitest.Registry, _ ocispec.Descriptor) ocispec.Descriptor {
			return r.Manifest(t, repo, "", ocispec.MediaTypeImageManifest, []byte(`{"layers":42}`))
		}, []string{"malformed-signature"}, []string{}, ""},
		{"a layer without a digest", func(r *ocitest.Registry, _ ocispec.Descriptor) ocispec.Descriptor {
			return r.Manifest(t, repo, "", ocispec.MediaTypeImageManifest, []byte(`{"config":{"mediaType":"`+ocitest.Notary+`"},"layers":[{"mediaType":"application/jose+json","digest":"../../x","size":3}]}`))
		}, []string{"malformed-signature"}, []string{}, ""},
		{"a list with the wrong size", func(r *ocitest.Registry, image ocispec.Descriptor) ocispec.Descriptor {
			d := r.Sign(t, repo, image, ocitest.Signature{Config: ocitest.Notary, Layer: ocitest.JWS, Layers: []string{"x"}, NoSubject: true})
			d.Size += 7
			return d
		}, []string{"malformed-signature"}, []string{}, ""},
		{"an envelope with the wrong size", func(r *ocitest.Registry, _ ocispec.Descriptor) ocispec.Descriptor {
			l := r.Blob(t, repo, ocitest.JWS, []byte("envelope")) // the very blob of the good one
			l.Size++
			return r.Manifest(t, repo, "", ocispec.MediaTypeImageManifest, map[string]any{"config": ocispec.Descriptor{MediaType: ocitest.Notary}, "layers": []ocispec.Descriptor{l}})
		}, []string{"malformed-signature"}, []string{}, "the good one's blob is read all the same"},
		{"an envelope larger than any", func(r *ocitest.Registry, image ocispec.Descriptor) ocispec.Descriptor {
			return r.Sign(t, repo, image, ocitest.Signature{Config: ocitest.Notary, Layer: ocitest.JWS, Layers: []string{strings.Repeat("x", 1<<20+1)}})
		}, []string{"limit-reached"}, []string{}, "not read at all"},
		{"an envelope announced as a gigabyte", func(r *ocitest.Registry, _ ocispec.Descriptor) ocispec.Descriptor {
			l := ocispec.Descriptor{MediaType: ocitest.JWS, Digest: digest.FromString("huge"), Size: 1 << 30}
			return r.Manifest(t, repo, "", ocispec.MediaTypeImageManifest, map[string]any{"config": ocispec.Descriptor{MediaType: ocitest.Notary}, "layers": []ocispec.Descriptor{l}})
		}, []string{"limit-reached"}, []string{}, ""},
		{"a manifest announced as a gigabyte", func(*ocitest.Registry, ocispec.Descriptor) ocispec.Descriptor {
			return ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString("huge"), Size: 1 << 30}
		}, []string{"limit-reached"}, []string{}, ""},
		{"something listed that is not there", func(*ocitest.Registry, ocispec.Descriptor) ocispec.Descriptor {
			return ocispec.Descriptor{MediaType: "application/vnd.example", Digest: digest.FromString("gone"), Size: 10}
		}, []string{}, []string{"not-found"}, "it may have been the signature"},
		{"an entry without a digest", func(*ocitest.Registry, ocispec.Descriptor) ocispec.Descriptor {
			return ocispec.Descriptor{MediaType: "application/vnd.example", Digest: "sha256:..", Size: 10}
		}, []string{"malformed-signature"}, []string{}, ""},
		{"the image itself", func(_ *ocitest.Registry, image ocispec.Descriptor) ocispec.Descriptor { return image }, []string{}, []string{}, "does not sign itself"},
	} {
		for _, withGood := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, good %t", c.name, withGood), func(t *testing.T) {
				r := ocitest.New(t, false)
				image := r.Image(t, repo, "1.0.0", "one", nil)
				list := []ocispec.Descriptor{c.poison(r, image)}
				want := []string{}
				if withGood {
					list = append(list, r.Sign(t, repo, image, ocitest.NotarySignature("envelope")))
					want = append(want, "notary-jws envelope (fallback tag)")
				}
				data, err := json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": ocispec.MediaTypeImageIndex, "manifests": list})
				if err != nil {
					t.Fatal(err)
				}
				r.Before(func(w http.ResponseWriter, req *http.Request) bool {
					if !strings.HasSuffix(req.URL.Path, "/"+ocitest.Tag(image)) {
						return false
					}
					w.Header().Set("Content-Type", ocispec.MediaTypeImageIndex)
					_, _ = w.Write(data)
					return true
				})
				got := find(t, r, oci.Options{})
				if diff := cmp.Diff(want, payloads(got)); diff != "" {
					t.Errorf("%s: %s", c.reason, diff)
				}
				if diff := cmp.Diff(c.broken, reasons(got.Broken)) + cmp.Diff(c.failed, reasons(got.Failed)); diff != "" {
					t.Errorf("%s: %s\nbroken %v\nfailed %v", c.reason, diff, got.Broken, got.Failed)
				}
			})
		}
	}
}

// TestPlacesThatFail: absence is never concluded from an error, and a place that fails hides nothing of the others.
func TestPlacesThatFail(t *testing.T) {
	place := func(image ocispec.Descriptor) map[string]string {
		return map[string]string{oci.PlaceReferrers: "/referrers/", oci.PlaceFallback: "/manifests/" + ocitest.Tag(image), oci.PlaceSigTag: "/manifests/" + ocitest.Tag(image) + ".sig"}
	}
	for _, c := range []struct {
		name   string
		answer func(http.ResponseWriter)
		want   map[string]verdict.Reason // by place; none: it counts as looked at, or as no such API
	}{
		{"404", func(w http.ResponseWriter) { w.WriteHeader(http.StatusNotFound) }, nil},
		{"405, as one registry of a cloud", func(w http.ResponseWriter) { w.WriteHeader(http.StatusMethodNotAllowed) },
			map[string]verdict.Reason{oci.PlaceFallback: verdict.RegistryOdd, oci.PlaceSigTag: verdict.RegistryOdd}},
		{"500", func(w http.ResponseWriter) { w.WriteHeader(http.StatusInternalServerError) },
			map[string]verdict.Reason{oci.PlaceReferrers: verdict.RegistryOdd, oci.PlaceFallback: verdict.RegistryOdd, oci.PlaceSigTag: verdict.RegistryOdd}},
		{"403", func(w http.ResponseWriter) { w.WriteHeader(http.StatusForbidden) },
			map[string]verdict.Reason{oci.PlaceReferrers: verdict.RegistryDenied, oci.PlaceFallback: verdict.RegistryDenied, oci.PlaceSigTag: verdict.RegistryDenied}},
		{"a page for people", func(w http.ResponseWriter) {
			w.Header().Set("Content-Type", "text/html")
			_, _ = w.Write([]byte("<html>welcome"))
		}, map[string]verdict.Reason{oci.PlaceFallback: verdict.RegistryOdd, oci.PlaceSigTag: verdict.Malformed}},
		{"no JSON", func(w http.ResponseWriter) {
			w.Header().Set("Content-Type", ocispec.MediaTypeImageIndex)
			_, _ = w.Write([]byte("{"))
		}, map[string]verdict.Reason{oci.PlaceReferrers: verdict.RegistryOdd, oci.PlaceFallback: verdict.RegistryOdd, oci.PlaceSigTag: verdict.Malformed}},
	} {
		for _, failing := range []string{oci.PlaceReferrers, oci.PlaceFallback, oci.PlaceSigTag} {
			t.Run(c.name+" at "+failing, func(t *testing.T) {
				r := ocitest.New(t, true)
				image := r.Image(t, repo, "1.0.0", "one", nil)
				r.Sign(t, repo, image, ocitest.NotarySignature("n"))
				s := ocitest.NotarySignature("older")
				s.NoSubject = true
				r.Fallback(t, repo, image, r.Sign(t, repo, image, s))
				r.Cosign(t, repo, image, "c")
				all := map[string]string{oci.PlaceReferrers: "notary-jws n (referrers)", oci.PlaceFallback: "notary-jws older (fallback tag)", oci.PlaceSigTag: "cosign c (.sig tag)"}
				delete(all, failing)
				want := []string{}
				for _, p := range all {
					want = append(want, p)
				}
				slices.Sort(want)
				r.Before(func(w http.ResponseWriter, req *http.Request) bool {
					path := place(image)[failing]
					if !strings.HasSuffix(req.URL.Path, path) && (failing != oci.PlaceReferrers || !strings.Contains(req.URL.Path, path)) {
						return false
					}
					c.answer(w)
					return true
				})
				got := find(t, r, oci.Options{})
				if diff := cmp.Diff(want, payloads(got)); diff != "" {
					t.Error(diff)
				}
				failures := append(slices.Clone(got.Failed), got.Broken...)
				if c.want[failing] == "" {
					if len(failures) > 0 {
						t.Errorf("failed: %v", failures)
					}
					return
				}
				if len(failures) != 1 || failures[0].Reason != c.want[failing] || slices.Contains(got.Looked, failing) && c.want[failing] != verdict.Malformed {
					t.Errorf("failed %v, looked %v; want %s at %s", failures, got.Looked, c.want[failing], failing)
				}
			})
		}
	}
}

// TestOrder: what claims a certificate that is trusted is read first, then by format in turns, the newest first; twice the same.
func TestOrder(t *testing.T) {
	r := ocitest.New(t, true)
	image := r.Image(t, repo, "1.0.0", "one", nil)
	dated := func(envelope, at string) {
		s := ocitest.NotarySignature(envelope)
		s.Annotations[ocispec.AnnotationCreated] = at
		r.Sign(t, repo, image, s)
	}
	dated("oldest", "2020-01-01T00:00:00Z")
	dated("newest", "2026-01-01T00:00:00Z")
	dated("undated", "yesterday")
	dated("trusted", "2019-01-01T00:00:00Z")
	r.Sign(t, repo, image, ocitest.BundleSignature("bundle"))
	attestation := ocitest.BundleSignature("attestation")
	attestation.Annotations["dev.sigstore.bundle.predicateType"] = "https://slsa.dev/provenance/v1"
	attestation.Annotations[ocispec.AnnotationCreated] = "2026-11-01T00:00:00Z"
	r.Sign(t, repo, image, attestation)

	prefer := []string{strings.ToUpper(digest.FromString("trusted").Encoded())}
	var first []string
	for range 3 {
		var got []string
		for _, s := range find(t, r, oci.Options{Prefer: prefer}).Found {
			got = append(got, string(s.Payload))
		}
		if len(got) != 6 || got[0] != "trusted" || slices.Index(got, "newest") > slices.Index(got, "oldest") || slices.Index(got, "oldest") > slices.Index(got, "undated") ||
			slices.Index(got, "bundle") > 2 || slices.Index(got, "attestation") < slices.Index(got, "bundle") {
			t.Fatalf("order %v", got)
		}
		if first == nil {
			first = got
		}
		if diff := cmp.Diff(first, got); diff != "" {
			t.Error(diff)
		}
	}
}

// TestJunk: junk beside a good signature does not hide it up to the limit, and beyond it the hint and the turns find it.
func TestJunk(t *testing.T) {
	for _, c := range []struct {
		name   string
		junk   int
		good   func(r *ocitest.Registry, image ocispec.Descriptor)
		prefer []string
		found  bool
		tried  int
		broken []string
		failed []string
	}{
		{"63 and a good one", 63, func(r *ocitest.Registry, image ocispec.Descriptor) {
			r.Sign(t, repo, image, ocitest.NotarySignature("good"))
		}, nil, true, 64, []string{}, []string{}},
		{"150 and one whose chain is known", 150, func(r *ocitest.Registry, image ocispec.Descriptor) {
			r.Sign(t, repo, image, ocitest.NotarySignature("good"))
		}, []string{digest.FromString("good").Encoded()}, true, 64, []string{"too-many-signatures"}, []string{}},
		{"150 and one of another format", 150, func(r *ocitest.Registry, image ocispec.Descriptor) { r.Cosign(t, repo, image, "good") },
			nil, true, 64, []string{"too-many-signatures"}, []string{}},
		{"250", 250, func(*ocitest.Registry, ocispec.Descriptor) {}, nil, false, 64, []string{"too-many-signatures"}, []string{"limit-reached"}},
		{"1001 layers in one manifest of cosign", 0, func(r *ocitest.Registry, image ocispec.Descriptor) {
			r.Cosign(t, repo, image, slices.Repeat([]string{"junk"}, 1001)...)
		}, nil, false, 64, []string{"too-many-signatures"}, []string{}}, // CVE-2024-29903
		{"1001 layers in one manifest of cosign, and a good one of another format", 0, func(r *ocitest.Registry, image ocispec.Descriptor) {
			r.Cosign(t, repo, image, slices.Repeat([]string{"junk"}, 1001)...)
			r.Sign(t, repo, image, ocitest.NotarySignature("good"))
		}, nil, true, 64, []string{"too-many-signatures"}, []string{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := ocitest.New(t, true)
			image := r.Image(t, repo, "1.0.0", "one", nil)
			for i := range c.junk {
				s := ocitest.NotarySignature(fmt.Sprintf("junk %d", i))
				s.Annotations[ocispec.AnnotationCreated] = "2030-01-01T00:00:00Z"
				r.Sign(t, repo, image, s)
			}
			c.good(r, image)
			got := find(t, r, oci.Options{Prefer: c.prefer})
			found := slices.ContainsFunc(got.Found, func(s oci.Signature) bool { return string(s.Payload) == "good" })
			if found != c.found || len(got.Found) != c.tried {
				t.Errorf("found %t of %d tried; want %t of %d", found, len(got.Found), c.found, c.tried)
			}
			if diff := cmp.Diff(c.broken, reasons(got.Broken)) + cmp.Diff(c.failed, reasons(got.Failed)); diff != "" {
				t.Errorf("%s\n%v\n%v", diff, got.Broken, got.Failed)
			}
		})
	}
}

// TestPages: the list goes on where the registry says so, and what stands on its last page counts as what stands on its first.
func TestPages(t *testing.T) {
	r := ocitest.New(t, true)
	image := r.Image(t, repo, "1.0.0", "one", nil)
	hanging := []ocispec.Descriptor{
		r.Sign(t, repo, image, ocitest.Signature{Type: "application/spdx+json", Layer: "text/spdx", Layers: []string{"sbom"}}),
		r.Sign(t, repo, image, ocitest.BundleSignature("second")), r.Sign(t, repo, image, ocitest.NotarySignature("third")),
	}
	r.Before(func(w http.ResponseWriter, req *http.Request) bool {
		if !strings.Contains(req.URL.Path, "/referrers/") {
			return false
		}
		n := len(req.URL.Query().Get("page"))
		if n < len(hanging)-1 {
			w.Header().Set("Link", fmt.Sprintf(`<%s?page=%s>; rel="next"`, req.URL.Path, strings.Repeat("x", n+1)))
		}
		w.Header().Set("Content-Type", ocispec.MediaTypeImageIndex)
		_ = json.NewEncoder(w).Encode(map[string]any{"schemaVersion": 2, "mediaType": ocispec.MediaTypeImageIndex, "manifests": hanging[n : n+1]})
		return true
	})
	got := find(t, r, oci.Options{})
	if diff := cmp.Diff([]string{"notary-jws third (referrers)", "sigstore-bundle second (referrers)"}, payloads(got)); diff != "" || got.Others != 1 || len(got.Failed) > 0 {
		t.Errorf("%d others, failed %v: %s", got.Others, got.Failed, diff)
	}
}

// TestFloods: registries that never come to an end come to an end here, soon and by name.
func TestFloods(t *testing.T) {
	other := func(n int) ocispec.Descriptor {
		return ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, ArtifactType: "application/spdx+json", Digest: digest.FromString(fmt.Sprint(n)), Size: 100}
	}
	page := func(w http.ResponseWriter, link string, list ...ocispec.Descriptor) {
		w.Header().Set("Content-Type", ocispec.MediaTypeImageIndex)
		if link != "" {
			w.Header().Set("Link", "<"+link+`>; rel="next"`)
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"schemaVersion": 2, "manifests": list})
	}
	pages := 0
	for _, c := range []struct {
		name   string
		flood  func(w http.ResponseWriter, req *http.Request)
		limits oci.Limits
		want   verdict.Reason
		most   int // requests
		reason string
	}{
		{"pages without an end", func(w http.ResponseWriter, req *http.Request) {
			pages++
			page(w, fmt.Sprintf("%s?page=%d", req.URL.Path, pages), other(pages))
		}, oci.Limits{}, verdict.LimitReached, 20, "notation asks until its time is over: nothing in it is a signature, so its limit never counts"},
		{"empty pages without an end", func(w http.ResponseWriter, req *http.Request) {
			pages++
			page(w, fmt.Sprintf("%s?page=%d", req.URL.Path, pages))
		}, oci.Limits{}, verdict.LimitReached, 20, ""},
		{"pages in a circle", func(w http.ResponseWriter, req *http.Request) { page(w, req.URL.Path+"?page=1") }, oci.Limits{}, verdict.RegistryOdd, 2, ""},
		{"a page elsewhere", func(w http.ResponseWriter, _ *http.Request) { page(w, "http://169.254.169.254/latest/meta-data/") }, oci.Limits{}, verdict.RegistryOdd, 1, "the list cannot send its reader away"},
		{"a page on another port", func(w http.ResponseWriter, _ *http.Request) { page(w, "http://127.0.0.1:1/v2/x") }, oci.Limits{}, verdict.RegistryOdd, 1, ""},
		{"a link that cannot be read", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Link", "<")
			page(w, "<%zz")
		}, oci.Limits{}, verdict.RegistryOdd, 1, ""},
		{"a page without an end", func(w http.ResponseWriter, req *http.Request) {
			w.Header().Set("Content-Type", ocispec.MediaTypeImageIndex)
			for chunk := []byte(strings.Repeat(" ", 64<<10)); req.Context().Err() == nil; {
				if _, err := w.Write(chunk); err != nil {
					return
				}
			}
		}, oci.Limits{}, verdict.LimitReached, 1, ""},
		{"a thousand on one page", func(w http.ResponseWriter, _ *http.Request) {
			var list []ocispec.Descriptor
			for i := range 1000 {
				list = append(list, other(i))
			}
			page(w, "", list...)
		}, oci.Limits{Requests: 300}, verdict.LimitReached, 1, ""},
		{"headers without an end", func(w http.ResponseWriter, req *http.Request) {
			pages++
			w.Header().Set("X", strings.Repeat("x", 100<<10))
			page(w, fmt.Sprintf("%s?page=%d", req.URL.Path, pages))
		}, oci.Limits{Total: 1 << 20}, verdict.LimitReached, 11, "they are answers, too"},
		{"an answer that never comes", func(_ http.ResponseWriter, req *http.Request) { <-req.Context().Done() }, oci.Limits{Time: time.Second}, verdict.TimedOut, 1, ""},
		{"an answer that drips", func(w http.ResponseWriter, req *http.Request) {
			w.Header().Set("Content-Type", ocispec.MediaTypeImageIndex)
			for req.Context().Err() == nil {
				_, _ = w.Write([]byte(" "))
				_ = http.NewResponseController(w).Flush()
				time.Sleep(10 * time.Millisecond)
			}
		}, oci.Limits{Time: time.Second}, verdict.TimedOut, 1, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := ocitest.New(t, true)
			image := r.Image(t, repo, "1.0.0", "one", nil)
			r.Cosign(t, repo, image, "good")
			r.Before(func(w http.ResponseWriter, req *http.Request) bool {
				if !strings.Contains(req.URL.Path, "/referrers/") {
					return false
				}
				c.flood(w, req)
				return true
			})
			start := time.Now()
			got := find(t, r, oci.Options{Limits: c.limits})
			if took := time.Since(start); took > 5*time.Second {
				t.Errorf("took %s", took)
			}
			if !slices.Contains(reasons(got.Failed), string(c.want)) || !strings.Contains(got.Failed[0].Message, "referrers: registry "+r.Host) {
				t.Errorf("%s: failed %v; want %s", c.reason, got.Failed, c.want)
			}
			if slices.Contains(got.Looked, oci.PlaceReferrers) {
				t.Errorf("looked: %v", got.Looked)
			}
			if n := r.Count("GET", "/referrers/"); n > c.most {
				t.Errorf("%d pages read, want at most %d", n, c.most)
			}
			if want := []string{"cosign good (.sig tag)"}; c.name != "headers without an end" && !slices.Equal(payloads(got), want) {
				t.Errorf("the flood hides %v: found %v", want, payloads(got))
			}
		})
	}
}

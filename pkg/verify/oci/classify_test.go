package oci

import (
	"encoding/json"
	"net/netip"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nopsctl/nopsctl/pkg/verify/ref"
	"github.com/nopsctl/nopsctl/pkg/verify/verdict"
)

// FuzzClassify: whatever a registry serves as a manifest, it is signatures that can be read on, something else, or malformed.
func FuzzClassify(f *testing.F) {
	const layer = `{"mediaType":"application/jose+json","digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":2}`
	for _, seed := range []string{
		`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.cncf.notary.signature"},"layers":[` + layer + `]}`,
		`{"config":{"mediaType":"application/vnd.cncf.notary.signature"},"layers":[` + layer + `,` + layer + `]}`,
		`{"config":{},"artifactType":"application/vnd.dev.sigstore.bundle.v0.3+json","layers":[` + strings.Replace(layer, "jose+json", "vnd.dev.sigstore.bundle.v0.3+json", 1) + `]}`,
		`{"config":{},"layers":[` + strings.Replace(layer, "jose+json", "vnd.dev.cosign.simplesigning.v1+json", 1) + `,{"mediaType":"text/plain"}]}`,
		`{"manifests":[]}`, `{"manifests":[],"config":{}}`, `{"layers":42}`, `null`, `[]`, `{"mediaType":"application/vnd.oci.artifact.manifest.v1+json","blobs":[]}`, "\x00", ``,
		`{"Config":{"MEDIATYPE":"application/vnd.cncf.notary.signature"},"lAyers":[` + layer + `],"layers":null}`,
	} {
		f.Add([]byte(seed), ocispec.MediaTypeImageManifest, false)
		f.Add([]byte(seed), "", true)
	}
	f.Fuzz(func(t *testing.T, data []byte, said string, sig bool) {
		from := PlaceReferrers
		if sig {
			from = PlaceSigTag
		}
		d := ocispec.Descriptor{MediaType: said, Digest: digest.FromBytes(data), Size: int64(len(data))}
		found, err := classify(data, d, from)
		if err != nil {
			if reasonOf(err) != verdict.Malformed || len(found) > 0 {
				t.Fatalf("%v with %d signatures", err, len(found))
			}
			if text := named("registry x", err).Error(); strings.ContainsAny(text, "\x1b\n\r\x00") {
				t.Fatalf("foreign text in %q", text)
			}
			return
		}
		if len(found) > 0 && !json.Valid(data) {
			t.Fatal("signatures in what is no JSON")
		}
		for i, s := range found {
			if s.Format == "" || !ref.IsDigest(s.Blob.Digest.String()) || s.Blob.Size <= 0 || s.Layer < i || s.From != from || s.Manifest.Digest != d.Digest ||
				s.Manifest.MediaType != ocispec.MediaTypeImageManifest && s.Manifest.MediaType != dockerManifest {
				t.Fatalf("signature %d: %+v", i, s)
			}
			if (s.Format == NotaryJWS || s.Format == NotaryCOSE) && len(found) != 1 {
				t.Fatalf("%d Notary envelopes in one manifest", len(found))
			}
		}
		again, err := classify(data, d, from)
		if err != nil || len(again) != len(found) {
			t.Fatal("differently, the second time")
		}
	})
}

// TestReach: the addresses that redirects are measured by.
func TestReach(t *testing.T) {
	for address, want := range map[string]reach{
		"93.184.216.34": public, "2606:2800:220:1::1": public, "10.0.0.1": private, "172.16.0.1": private, "172.32.0.1": public, "192.168.1.1": private, "100.64.0.1": private, "100.128.0.1": public,
		"fd00::1": private, "127.0.0.1": loopback, "127.9.9.9": loopback, "::1": loopback, "0.0.0.0": loopback, "0.1.2.3": loopback, "::": loopback, "169.254.1.1": linkLocal, "fe80::1": linkLocal,
		"fe80::1%eth0": linkLocal, "fd00:ec2::254": linkLocal, "100.100.100.200": linkLocal, "::ffff:10.0.0.1": private, "::ffff:169.254.169.254": linkLocal, "64:ff9b::a00:1": private, "224.0.0.1": linkLocal,
	} {
		if got := reachOf(netip.MustParseAddr(address)); got != want {
			t.Errorf("%s is %s, want %s", address, got, want)
		}
	}
}

package main

import (
	"bytes"
	"io"
	"log"
	"net/http/httptest"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	ggcr "github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	embeddedchart "github.com/nopsctl/nopsctl/embedded-chart"
	"github.com/nopsctl/nopsctl/lab/build"
	"github.com/nopsctl/nopsctl/lab/images"
)

// TestPublish pushes our images, for this architecture alone as the other takes minutes to compile, as preflight wants them: with our label, under the chart's names.
func TestPublish(t *testing.T) {
	b := build.Builder{Repo: filepath.Join("..", "..", ".."), Cache: t.TempDir()}
	server := httptest.NewServer(ggcr.New(ggcr.Logger(log.New(io.Discard, "", 0))))
	defer server.Close()
	host := strings.TrimPrefix(server.URL, "http://")
	publish := func(registry string) (string, error) {
		var out, progress bytes.Buffer
		err := (&global{streams: streams{&out, &progress}}).publish(t.Context(), b, registry, []string{runtime.GOARCH})
		return out.String(), err
	}
	first, err := publish(host + "/mine")
	if err != nil {
		t.Fatal(err)
	}
	list, err := embeddedchart.Images()
	if err != nil {
		t.Fatal(err)
	}
	ours := 0
	for _, i := range list {
		if !i.Ours || !i.Available {
			continue
		}
		ours++
		tag, err := name.NewTag(host+"/mine/"+strings.TrimPrefix(i.Repository, "public.ecr.aws/")+":"+i.Tag, name.Insecure)
		if err != nil {
			t.Fatal(err)
		}
		index, err := remote.Index(tag)
		if err != nil {
			t.Fatalf("%s: %v", tag, err)
		}
		manifest, err := index.IndexManifest()
		if err != nil || len(manifest.Manifests) != 1 {
			t.Fatalf("%s: %v, %+v", tag, err, manifest)
		}
		for _, m := range manifest.Manifests {
			image, err := index.Image(m.Digest)
			if err != nil {
				t.Fatal(err)
			}
			config, err := image.ConfigFile()
			if err != nil || config.Architecture != m.Platform.Architecture || config.Config.Labels["org.opencontainers.image.source"] != images.Source {
				t.Errorf("%s for %s: %v, %+v", tag, m.Platform, err, config.Config.Labels)
			}
		}
		if !strings.Contains(first, tag.String()+"@sha256:") {
			t.Errorf("%s is not told: %s", tag, first)
		}
	}
	if ours == 0 {
		t.Error("none of ours")
	}
	if again, err := publish(host + "/mine/"); err != nil || again != first {
		t.Errorf("the second time: %v\n%s\n%s", err, first, again)
	}
	for _, bad := range []string{"https://registry.example.com", "/x"} {
		if _, err := publish(bad); err == nil || !strings.Contains(err.Error(), "without a scheme") {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

package images

import (
	"bytes"
	"io"

	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// opener reads the same bytes as often as asked.
func opener(data []byte) tarball.Opener {
	return func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil }
}

package verify

import (
	"context"

	"github.com/nopsctl/nopsctl/pkg/verify/oci"
	"github.com/nopsctl/nopsctl/pkg/verify/policy"
	"github.com/nopsctl/nopsctl/pkg/verify/verdict"
)

// Engine checks one signature against one requirement. It never panics, never prints, and asks nobody anything before the
// signature has been shown to be about the artifact and by a signer that the requirement names.
type Engine interface {
	// Verify returns a finding in every case. rule gives revocation mode and ages; leaf is one of its leaves.
	Verify(ctx context.Context, a oci.Artifact, s oci.Signature, rule policy.Rule, leaf policy.Leaf) verdict.Finding
}

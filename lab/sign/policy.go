package sign

import (
	"fmt"
	"strings"

	"github.com/nopsctl/nopsctl/pkg/verify/policy"
)

// Policy is what a user of the lab gives to nopsctl --policy. Images are named by their repositories in public.ecr.aws; ours
// carry AWS Signer's signatures, all others below nops/ the cosign key's.
func (k *Keys) Policy(ours []string) string {
	var b strings.Builder
	fmt.Fprintf(&b, `# Who signs what this machine's labs serve. Written by lab up; the format: docs/verification.md
apiVersion: %s
kind: %s

trust:
  awsSigner:
    roots:
      # The lab's stand-in for AWS Signer. A policy for real images leaves trust out: AWS's own root is known.
      - sha256: %s

images:
  # Ours, and the chart: signed as AWS Signer signs, by this profile alone.
  - match:
`, policy.APIVersion, policy.Kind, k.AWS.RootFingerprint())
	for _, repository := range ours {
		fmt.Fprintf(&b, "      - public.ecr.aws/%s\n", repository)
	}
	fmt.Fprintf(&b, `    require:
      awsSigner:
        profiles:
          - %s
    revocation: require # lab fault signer down shows what that means; best-effort would go on, and say so

  # Other people's programs, as built for this lab: signed with a cosign key.
  - match:
      - public.ecr.aws/nops/**
    require:
      cosignKey:
        transparencyLog: false
        key: |
%s`, Profile, indented(string(k.Cosign.PublicPEM()), "          "))
	return b.String()
}

func indented(text, by string) string {
	lines := strings.SplitAfter(text, "\n")
	for i, l := range lines {
		if l != "" {
			lines[i] = by + l
		}
	}
	return strings.Join(lines, "")
}

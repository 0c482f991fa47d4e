package policy

// placeholder stands in a template for what only the publisher of the images can say. Parse refuses it.
const placeholder = "arn:aws:signer:REGION:ACCOUNT:/signing-profiles/NAME"

// Example is a policy to begin with. Without an ARN it holds a place holder that Parse refuses, so that nobody trusts
// somebody by accident.
func Example(profileARN string) string {
	if profileARN == "" {
		profileARN = placeholder
	}
	return `# Who may sign the images that nopsctl installs. Names are the published ones, whatever mirror images come from.
# The format, with every field: docs/verification.md
apiVersion: ` + APIVersion + `
kind: ` + Kind + `

# The first rule whose match fits counts. An image that no rule is about does not pass.
images:
  - match:
      - public.ecr.aws/nops/** # * is anything within one part of the name, ** is one or more whole parts
    require:
      # By whom: the ARN of the publisher's signing profile. Ask them for it; nopsctl verify inspect IMAGE shows what a
      # signature claims, which is no proof that it is theirs.
      awsSigner:
        profiles:
          - ` + profileARN + `
    # Of revocation: with require, what cannot be found out does not pass; with best-effort it passes, and is said; with off
    # nobody asks.
    revocation: best-effort
    # maxAge: 365d           # older signatures do not pass
    # notBefore: 2026-01-01  # nor do those from before

  # Images that you build and sign yourself with cosign:
  # - match: [registry.example.com/nops/*]
  #   require:
  #     cosignKey:
  #       keyFile: cosign.pub     # beside this file; or key: with the PEM itself
  #       transparencyLog: false  # signed without Rekor

# exceptions:
#   - match: [public.ecr.aws/nops/nvidia/dcgm-exporter]
#     reason: published unsigned, asked for under a ticket number
#     expires: 2027-01-31         # at most a year ahead
`
}

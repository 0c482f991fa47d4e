package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	embeddedchart "github.com/nopsctl/nopsctl/embedded-chart"
	"github.com/nopsctl/nopsctl/lab/build"
	"github.com/nopsctl/nopsctl/lab/cluster"
	"github.com/nopsctl/nopsctl/lab/images"
	"github.com/nopsctl/nopsctl/lab/platform"
	"github.com/nopsctl/nopsctl/lab/sign"
	"github.com/nopsctl/nopsctl/pkg/verify/policy"
	"github.com/nopsctl/nopsctl/pkg/verify/ref"
)

// policyFile says who signs what a lab serves. nopsctl is told of it by its user, never by the platform.
func policyFile(l cluster.Layout) string { return l.Path("policy.yaml") }

// credentialsFile holds the key pair for AWS Signer's revocation API.
func credentialsFile(l cluster.Layout) string { return l.Path("aws", "credentials") }

// awsEnvironment is where the SDKs of AWS find their keys inside, as they find those of a person: in a file. There is no
// instance whose metadata could be asked for others.
func awsEnvironment(l cluster.Layout) []string {
	return []string{"AWS_SHARED_CREDENTIALS_FILE=" + credentialsFile(l), "AWS_CONFIG_FILE=" + l.Path("aws", "config"), "AWS_EC2_METADATA_DISABLED=true"}
}

// signingKeys are those of all labs of this machine.
func signingKeys(cache string) (*sign.Keys, error) {
	return sign.Open(filepath.Join(cache, "signing")) //nolint:wrapcheck // says what it opens
}

// signedBy is how an image is signed: a lab shows both ways.
func signedBy(ours bool) policy.Method {
	if ours {
		return policy.MethodAWSSigner
	}
	return policy.MethodCosignKey
}

// ourRepositories are those of our images and of the chart, those that wait for their programs included.
func ourRepositories() ([]string, error) {
	list, err := embeddedchart.Images()
	if err != nil {
		return nil, err //nolint:wrapcheck // names the list
	}
	ours := []string{chartRepository}
	for _, component := range slices.Sorted(maps.Keys(list)) {
		if list[component].Ours {
			ours = append(ours, strings.TrimPrefix(list[component].Repository, "public.ecr.aws/"))
		}
	}
	return ours, nil
}

// chartRepository is where the chart is published.
const chartRepository = "nops/kubernetes-agent"

// writeTrust writes what whoever installs has in their hands: the policy, and the key pair for AWS.
func writeTrust(l cluster.Layout, cache string, info platform.Info) error {
	keys, err := signingKeys(cache)
	if err != nil {
		return err
	}
	ours, err := ourRepositories()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(credentialsFile(l)), 0o700); err != nil {
		return fmt.Errorf("write the AWS keys of the lab: %w", err)
	}
	for path, text := range map[string]string{
		policyFile(l):           keys.Policy(ours),
		credentialsFile(l):      fmt.Sprintf("[default]\naws_access_key_id = %s\naws_secret_access_key = %s\n", info.AWSAccessKeyID, info.AWSSecretAccessKey),
		l.Path("aws", "config"): "[default]\nregion = " + info.Region + "\n",
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			return fmt.Errorf("write what the lab is trusted by: %w", err)
		}
	}
	return nil
}

func newSign(g *global) *cobra.Command {
	cmd := &cobra.Command{Use: "sign", Short: "Revoke signatures of what the lab serves"}
	for _, way := range []struct {
		use, short, done string
		revoked          bool
	}{
		{"revoke IMAGE|ARN", "Revoke the signing jobs of an image (REPOSITORY:TAG), or a job or profile version by its ARN", "revoked", true},
		{"unrevoke IMAGE|ARN", "Take it back, which AWS cannot", "no longer revoked", false},
	} {
		cmd.AddCommand(&cobra.Command{
			Use: way.use, Short: way.short, Args: cobra.ExactArgs(1),
			RunE: func(cmd *cobra.Command, args []string) error {
				c, err := g.running()
				if err != nil {
					return err
				}
				arns := args
				if !strings.HasPrefix(args[0], "arn:") {
					at, err := parseImage(c, args[0])
					if err != nil {
						return err
					}
					if arns, err = at.jobs(cmd.Context()); err != nil {
						return err
					}
				}
				if err := revoke(cmd.Context(), c, arns, way.revoked); err != nil {
					return err
				}
				for _, arn := range arns {
					fmt.Fprintf(g.err, "✓ %s is %s\n", arn, way.done)
				}
				return nil
			},
		})
	}
	return cmd
}

// image is an image in a lab's registry.
type image struct {
	registry        images.Registry
	repository, tag string
}

// parseImage reads REPOSITORY:TAG, with or without the registry's published name.
func parseImage(c *cluster.Cluster, text string) (image, error) {
	r, err := ref.Parse("public.ecr.aws/" + strings.TrimPrefix(text, "public.ecr.aws/"))
	if err != nil {
		return image{}, err //nolint:wrapcheck // says what it is not
	}
	if r.Tag == "" || r.Digest != "" {
		return image{}, fmt.Errorf("%s: expected REPOSITORY:TAG", text)
	}
	return image{images.Registry{Host: c.Forwards["registry"], Insecure: true}, r.Repository, r.Tag}, nil
}

func (i image) jobs(ctx context.Context) ([]string, error) {
	digest, err := i.registry.Digest(ctx, i.repository, i.tag)
	switch {
	case err != nil:
		return nil, err //nolint:wrapcheck // names the image
	case digest == "":
		return nil, fmt.Errorf("the lab serves no %s:%s", i.repository, i.tag)
	}
	return sign.Jobs(ctx, i.registry, i.repository, digest) //nolint:wrapcheck // names the image
}

// served are the images of the lab itself, with who signs them, as REPOSITORY:TAG; nothing may change what stands there.
func served() (map[string]policy.Method, error) {
	list, err := embeddedchart.Images()
	if err != nil {
		return nil, err //nolint:wrapcheck // names the list
	}
	specs, err := imageSpecs(list, build.All, "", "", nil)
	if err != nil {
		return nil, err
	}
	all := map[string]policy.Method{}
	for _, s := range specs {
		all[s.Repository+":"+s.Tag] = signedBy(s.Ours)
	}
	return all, nil
}

// own refuses tags that the lab itself serves: all labs of the machine share the registry's directory.
func (i image) own() error {
	all, err := served()
	if err != nil {
		return err
	}
	if _, taken := all[i.repository+":"+i.tag]; taken {
		return fmt.Errorf("%s:%s is what the lab itself serves, and all labs of this machine with it: take another tag", i.repository, i.tag)
	}
	return nil
}

func newImage(g *global) *cobra.Command {
	cmd := &cobra.Command{
		Use: "image", Short: "Put images into the lab's registry that must not run, and take them away again",
		Long: `Put images into the lab's registry that must not run, and take them away again. They do what the image does that they are
made from, so that verification alone stops them:

  tampered  other content, with the signature of the image it is made from
  unsigned  other content, without any
  foreign   signed by another authority (or another cosign key), under the same names
  stranger  signed by AWS Signer for another customer, whose profile has the same name
  older     signed by the right signer, a month ago
  revoked   signed by the right signer, whose signature was then revoked`,
	}
	cmd.AddCommand(&cobra.Command{
		Use: "forge KIND IMAGE TAG", Short: "Put a forgery of IMAGE (REPOSITORY:TAG) under another tag of its repository; prints its digest", Args: cobra.ExactArgs(3),
		RunE: func(cmd *cobra.Command, args []string) error {
			return g.forge(cmd.Context(), args[0], args[1], args[2])
		},
	}, &cobra.Command{
		Use: "copy IMAGE REPOSITORY", Short: "Copy IMAGE to another repository as a mirror does that knows nothing of signatures", Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := g.running()
			if err != nil {
				return err
			}
			i, err := parseImage(c, args[0])
			if err != nil {
				return err
			}
			if err := (image{repository: args[1], tag: i.tag}).own(); err != nil {
				return err
			}
			digest, err := i.registry.Copy(cmd.Context(), i.repository, i.tag, args[1])
			if err == nil {
				fmt.Fprintln(g.out, digest)
			}
			return err //nolint:wrapcheck // names the image
		},
	}, &cobra.Command{
		Use: "rm IMAGE…", Short: "Take images away that were put there, with their signatures", Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := g.running()
			if err != nil {
				return err
			}
			for _, arg := range args {
				if err := g.remove(cmd.Context(), c, arg); err != nil {
					return err
				}
			}
			return nil
		},
	})
	return cmd
}

func (g *global) forge(ctx context.Context, kind, from, tag string) error {
	c, err := g.running()
	if err != nil {
		return err
	}
	cache, err := cacheDir()
	if err != nil {
		return err
	}
	keys, err := signingKeys(cache)
	if err != nil {
		return err
	}
	i, err := parseImage(c, from)
	if err != nil {
		return err
	}
	all, err := served()
	if err != nil {
		return err
	}
	method, known := all[i.repository+":"+i.tag]
	if !known {
		return fmt.Errorf("%s:%s is not what the lab serves: there is nothing to forge", i.repository, i.tag)
	}
	forgery := image{i.registry, i.repository, tag}
	if err := forgery.own(); err != nil {
		return err
	}
	digest, err := keys.Forge(ctx, i.registry, sign.Forgery(kind), i.repository, i.tag, tag, method, time.Now())
	if err != nil {
		return err //nolint:wrapcheck // names the image
	}
	if sign.Forgery(kind) == sign.Revoked {
		jobs, err := forgery.jobs(ctx)
		if err != nil {
			return err
		}
		if err := revoke(ctx, c, jobs, true); err != nil {
			return err
		}
	}
	fmt.Fprintln(g.out, digest)
	return nil
}

func revoke(ctx context.Context, c *cluster.Cluster, arns []string, revoked bool) error {
	for _, arn := range arns {
		if err := (platform.Control{StateDir: c.Layout.Path("platform")}).Revoke(ctx, arn, revoked); err != nil {
			return err //nolint:wrapcheck // names the ARN
		}
	}
	return nil
}

func (g *global) remove(ctx context.Context, c *cluster.Cluster, text string) error {
	i, err := parseImage(c, text)
	if err != nil {
		return err
	}
	if err := i.own(); err != nil {
		return err
	}
	if digest, err := i.registry.Digest(ctx, i.repository, i.tag); err != nil || digest == "" {
		return err //nolint:wrapcheck // names the image
	}
	// What was revoked is forgotten with it.
	jobs, err := i.jobs(ctx)
	if err != nil && !errors.Is(err, sign.ErrNoJob) {
		return err
	}
	if err := revoke(ctx, c, jobs, false); err != nil {
		return err
	}
	return i.registry.Remove(ctx, i.repository, i.tag) //nolint:wrapcheck // names the image
}

package kube_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"
	"k8s.io/client-go/rest"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/nopsctl/nopsctl/internal/kube"
)

const arn = "arn:aws:eks:us-west-2:123456789012:cluster/sample"

func config(cluster, user, kctx, server string, exec *clientcmdapi.ExecConfig) clientcmdapi.Config {
	return clientcmdapi.Config{
		Clusters:       map[string]*clientcmdapi.Cluster{cluster: {Server: server}},
		AuthInfos:      map[string]*clientcmdapi.AuthInfo{user: {Exec: exec, Token: "t"}},
		Contexts:       map[string]*clientcmdapi.Context{kctx: {Cluster: cluster, AuthInfo: user}},
		CurrentContext: kctx,
	}
}

func exec(command string, args ...string) *clientcmdapi.ExecConfig {
	return &clientcmdapi.ExecConfig{Command: command, Args: args, APIVersion: "client.authentication.k8s.io/v1", InteractiveMode: clientcmdapi.NeverExecInteractiveMode}
}

func TestClusterARN(t *testing.T) {
	const server = "https://0123456789ABCDEF.gr7.us-west-2.eks.amazonaws.com"
	for _, tt := range []struct {
		name, reason string
		config       clientcmdapi.Config
		want, hint   string
	}{
		{"update-kubeconfig", "the cluster entry is the ARN", config(arn, arn, arn, server, nil), arn, ""},
		{"aliased", "--alias renames the context only", config(arn, "me", "prod", server, nil), arn, ""},
		{"renamed cluster", "the user entry still says it", config("c", arn, "prod", server, nil), arn, ""},
		{"GovCloud", "another partition", config("arn:aws-us-gov:eks:us-gov-west-1:123456789012:cluster/x", "u", "c", server, nil), "arn:aws-us-gov:eks:us-gov-west-1:123456789012:cluster/x", ""},
		{"eksctl", "name and region, no account: a guess would be wrong some day", config("sample.us-west-2.eksctl.io", "u", "c", server, exec("aws", "eks", "get-token", "--cluster-name", "sample", "--region", "us-west-2")), "", "arn:aws:eks:us-west-2:ACCOUNT:cluster/sample"},
		{"authenticator", "the region is in the server's name", config("c", "u", "c", server, exec("/usr/bin/aws-iam-authenticator", "token", "-i", "sample")), "", "arn:aws:eks:us-west-2:ACCOUNT:cluster/sample"},
		{"equals sign", "flags may be written in one", config("c", "u", "c", "https://x", exec("aws", "eks", "get-token", "--cluster-name=sample")), "", "arn:aws:eks:REGION:ACCOUNT:cluster/sample"},
		{"ARN in the arguments", "some scripts do", config("c", "u", "c", server, exec("aws-iam-authenticator", "token", "--cluster-id", arn)), arn, ""},
		{"not EKS", "kind and friends", config("kind-kind", "kind-kind", "kind-kind", "https://127.0.0.1:6443", nil), "", "does not say which EKS cluster"},
		{"another plugin", "its arguments mean something else", config("c", "u", "c", server, exec("gke-gcloud-auth-plugin", "--cluster-name", "x")), "", "does not say which EKS cluster"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f, err := kube.FromConfig(tt.config, kube.Options{}).Facts()
			if err != nil {
				t.Fatal(err)
			}
			if f.ClusterARN != tt.want || !strings.Contains(f.ARNHint, tt.hint) || (tt.want == "") != (f.ARNHint != "") {
				t.Errorf("%s: %q, %q", tt.reason, f.ClusterARN, f.ARNHint)
			}
		})
	}
}

func TestParseARN(t *testing.T) {
	got, err := kube.ParseARN(arn)
	if diff := cmp.Diff(kube.ARN{Partition: "aws", Region: "us-west-2", Account: "123456789012", Name: "sample"}, got); diff != "" || err != nil || got.String() != arn {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	for _, bad := range []string{"", "sample", "arn:aws:eks:us-west-2:123:cluster/x", "arn:aws:ec2:us-west-2:123456789012:cluster/x", arn + "/x", arn + "\n", "arn:aws:eks:us-west-2:123456789012:nodegroup/x"} {
		if got, err := kube.ParseARN(bad); err == nil {
			t.Errorf("ParseARN(%q) = %v", bad, got)
		}
	}
}

func FuzzParseARN(f *testing.F) {
	f.Add(arn)
	f.Add("arn:aws-cn:eks:cn-north-1:123456789012:cluster/a_b-C")
	f.Fuzz(func(t *testing.T, s string) {
		if a, err := kube.ParseARN(s); err == nil && a.String() != s {
			t.Errorf("%q reads as %q", s, a)
		}
	})
}

const kubeconfig = `apiVersion: v1
kind: Config
current-context: one
clusters:
- {name: c1, cluster: {server: "https://one.example"}}
- {name: ` + arn + `, cluster: {server: "https://two.example"}}
users:
- {name: u, user: {token: secret}}
contexts:
- {name: one, context: {cluster: c1, user: u, namespace: from-context}}
- {name: two, context: {cluster: "` + arn + `", user: u}}
`

func write(t *testing.T, text string) string {
	t.Helper()
	p := filepath.Join(t.TempDir(), "config")
	if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return p
}

func TestOptions(t *testing.T) {
	path := write(t, kubeconfig)
	for _, tt := range []struct {
		name, reason string
		args         []string
		env          map[string]string
		want         kube.Facts
	}{
		{"flag", "the current context of the file", []string{"--kubeconfig", path}, map[string]string{"KUBECONFIG": "/nowhere"}, kube.Facts{Context: "one", Cluster: "c1", User: "u", Server: "https://one.example", Namespace: "from-context", ARNHint: "the kubeconfig does not say which EKS cluster this is"}},
		{"environment", "as kubectl does", []string{"--context", "two", "-n", "nops"}, map[string]string{"KUBECONFIG": "/nowhere" + string(os.PathListSeparator) + path}, kube.Facts{Context: "two", Cluster: arn, User: "u", Server: "https://two.example", Namespace: "nops", ClusterARN: arn}},
		{"impersonation", "shown, because it decides what is allowed", []string{"--kubeconfig", path, "--as", "jane", "--as-group", "a", "--as-group", "b"}, nil, kube.Facts{Context: "one", Cluster: "c1", User: "u", As: "jane", Server: "https://one.example", Namespace: "from-context", ARNHint: "the kubeconfig does not say which EKS cluster this is"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o := kube.Options{Env: func(k string) string { return tt.env[k] }, UserAgent: "test/1"}
			fs := pflag.NewFlagSet("", pflag.ContinueOnError)
			o.BindFlags(fs)
			if err := fs.Parse(tt.args); err != nil {
				t.Fatal(err)
			}
			c := kube.New(o)
			got, err := c.Facts()
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("%s (-want +got):\n%s", tt.reason, diff)
			}
			rc, err := c.ToRESTConfig()
			if err != nil || rc.UserAgent != "test/1" || rc.Impersonate.UserName != tt.want.As || len(rc.Impersonate.Groups) != strings.Count(strings.Join(tt.args, " "), "--as-group") {
				t.Errorf("%v %+v", err, rc)
			}
			rc.Host = "changed"
			if again, err := c.ToRESTConfig(); err != nil || again.Host == "changed" {
				t.Errorf("a caller's changes stay its own: %v", err)
			}
		})
	}
}

func TestNoCluster(t *testing.T) {
	path := write(t, kubeconfig)
	for _, tt := range []struct {
		name, reason string
		options      kube.Options
		says, hint   string
	}{
		{"nothing", "an empty home", kube.Options{Env: func(string) string { return "" }}, "no kubeconfig", "aws eks update-kubeconfig"},
		{"unknown context", "name the ones there are", kube.Options{Kubeconfig: path, Context: "three"}, `"three"`, "one, two"},
		{"missing file", "name it", kube.Options{Kubeconfig: filepath.Join(t.TempDir(), "absent")}, "absent", "--kubeconfig"},
		{"broken file", "say where", kube.Options{Kubeconfig: write(t, "{")}, "kubeconfig:", "--kubeconfig"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := kube.New(tt.options).Facts()
			var none *kube.NoClusterError
			if !errors.As(err, &none) || none.ExitClass() != "usage" || !strings.Contains(err.Error(), tt.says) || !strings.Contains(none.Hint(), tt.hint) || strings.Contains(err.Error(), "\n") {
				t.Errorf("%s: %v", tt.reason, err)
			}
			if errors.Is(err, rest.ErrNotInCluster) {
				t.Errorf("%s: inside jargon: %v", tt.reason, err)
			}
		})
	}
}

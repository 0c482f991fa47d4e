package kube

import (
	"fmt"
	"path"
	"regexp"
	"strings"

	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// ARN is the name of an EKS cluster: arn:<partition>:eks:<region>:<account>:cluster/<name>.
type ARN struct{ Partition, Region, Account, Name string }

// String is the ARN as it is written.
func (a ARN) String() string {
	return fmt.Sprintf("arn:%s:eks:%s:%s:cluster/%s", a.Partition, a.Region, a.Account, a.Name)
}

var arnPattern = regexp.MustCompile(`^arn:(aws[a-z-]*):eks:([a-z]{2}[a-z0-9-]*-\d+):(\d{12}):cluster/([0-9A-Za-z][0-9A-Za-z_-]{0,99})$`)

// ParseARN reads the ARN of an EKS cluster.
func ParseARN(s string) (ARN, error) {
	m := arnPattern.FindStringSubmatch(s)
	if m == nil {
		return ARN{}, fmt.Errorf("%q is not the ARN of an EKS cluster (arn:aws:eks:REGION:ACCOUNT:cluster/NAME)", s)
	}
	return ARN{Partition: m[1], Region: m[2], Account: m[3], Name: m[4]}, nil
}

// detectARN looks where EKS's tools write it: `aws eks update-kubeconfig` names the cluster entry by the ARN (and, without
// aliases, the user and the context too); eksctl and others leave a name and a region in the arguments of the exec plugin,
// which lacks the account. A guess is worse than a question: without the account there is no ARN.
func detectARN(f Facts, user *clientcmdapi.AuthInfo) (found, hint string) {
	for _, name := range []string{f.Cluster, f.User, f.Context} {
		if _, err := ParseARN(name); err == nil {
			return name, ""
		}
	}
	if user == nil || user.Exec == nil {
		return "", "the kubeconfig does not say which EKS cluster this is"
	}
	name, region := execArguments(user.Exec)
	if _, err := ParseARN(name); err == nil {
		return name, ""
	}
	if region == "" {
		region = serverRegion(f.Server)
	}
	if name == "" {
		return "", "the kubeconfig does not say which EKS cluster this is"
	}
	if region == "" {
		region = "REGION"
	}
	return "", fmt.Sprintf("the kubeconfig names the EKS cluster %s but not its account: arn:aws:eks:%s:ACCOUNT:cluster/%s", name, region, name)
}

// execArguments reads the arguments EKS's two token plugins have.
func execArguments(e *clientcmdapi.ExecConfig) (cluster, region string) {
	var clusterFlags []string
	switch path.Base(strings.ReplaceAll(strings.TrimSuffix(e.Command, ".exe"), `\`, "/")) {
	case "aws":
		clusterFlags = []string{"--cluster-name", "--cluster-id"}
	case "aws-iam-authenticator", "heptio-authenticator-aws":
		clusterFlags = []string{"-i", "--cluster-id"}
	default:
		return "", ""
	}
	value := func(flags ...string) string {
		for i, a := range e.Args {
			for _, f := range flags {
				if a == f && i+1 < len(e.Args) {
					return e.Args[i+1]
				}
				if v, ok := strings.CutPrefix(a, f+"="); ok {
					return v
				}
			}
		}
		return ""
	}
	cluster, region = value(clusterFlags...), value("--region")
	for _, env := range e.Env {
		if region == "" && (env.Name == "AWS_REGION" || env.Name == "AWS_DEFAULT_REGION") {
			region = env.Value
		}
	}
	return cluster, region
}

var eksHost = regexp.MustCompile(`\.([a-z]{2}[a-z0-9-]*-\d+)\.eks\.amazonaws\.com`)

// serverRegion reads the region from an EKS endpoint's host name.
func serverRegion(server string) string {
	if m := eksHost.FindStringSubmatch(server); m != nil {
		return m[1]
	}
	return ""
}

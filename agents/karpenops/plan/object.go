package plan

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"
)

func unix(at int64) time.Time { return time.Unix(at, 0).UTC() }

func number(f float64) string { return strconv.FormatFloat(f, 'f', -1, 64) }

// names lists some, and how many more there are.
func names(list []string) string {
	const most = 8
	if len(list) > most {
		return fmt.Sprintf("%s and %d more", strings.Join(list[:most], ", "), len(list)-most)
	}
	return strings.Join(list, ", ")
}

// at walks down an object; nil is absent.
func at(o any, path ...string) any {
	for _, key := range path {
		m, _ := o.(map[string]any)
		o = m[key]
	}
	return o
}

// copyOf is a deep copy of what JSON decodes to.
func copyOf(v any) any {
	switch v := v.(type) {
	case map[string]any:
		c := make(map[string]any, len(v))
		for key, value := range v {
			c[key] = copyOf(value)
		}
		return c
	case []any:
		c := make([]any, len(v))
		for i, value := range v {
			c[i] = copyOf(value)
		}
		return c
	}
	return v
}

func copyMap(v any) map[string]any {
	if m, ok := copyOf(v).(map[string]any); ok {
		return m
	}
	return map[string]any{}
}

// encoded is a value's canonical JSON: maps by key, and a number is the number that it is, whatever type carries it.
func encoded(v any) []byte {
	data, err := json.Marshal(v)
	if err != nil {
		return []byte(err.Error())
	}
	return data
}

func same(a, b any) bool { return bytes.Equal(encoded(a), encoded(b)) }

func digest(parts ...any) string {
	sum := sha256.Sum256(encoded(parts))
	return hex.EncodeToString(sum[:6])
}

// counted is a number of things in words.
func counted(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// amount reads a quantity.
func amount(v any) (float64, bool) {
	switch v := v.(type) {
	case string:
		q, err := resource.ParseQuantity(v)
		if err != nil {
			return 0, false
		}
		return q.AsApproximateFloat64(), true
	case int64:
		return float64(v), true
	case int:
		return float64(v), true
	case float64:
		return v, true
	}
	return 0, false
}

const (
	resourceCPU    = "cpu"
	resourceMemory = "memory"
	mebi           = 1 << 20
)

// round is as much of a resource as a limit of ours may name: whole vCPU, whole MiB, whole numbers of anything else, and never more.
func round(name string, v float64) float64 {
	v = clean(v)
	if name == resourceMemory || name == "ephemeral-storage" {
		return math.Floor(v/mebi) * mebi
	}
	return math.Floor(v)
}

// quantity writes a rounded amount as the API server would.
func quantity(name string, v float64) string {
	format := resource.DecimalSI
	if name == resourceMemory || name == "ephemeral-storage" {
		format = resource.BinarySI
	}
	return resource.NewQuantity(int64(v), format).String()
}

// human writes an amount for people.
func human(name string, v float64) string {
	switch name {
	case resourceCPU:
		return number(math.Round(v*100)/100) + " vCPU"
	case resourceMemory, "ephemeral-storage":
		return number(math.Round(v/(1<<30)*100)/100) + " GiB of " + name
	}
	return number(v) + " " + name
}

// foreign says whether a label or annotation of a NodePool says whose it is, or is somebody's bookkeeping: a copy of it on a sibling would make
// a GitOps tool prune the sibling, or Karpenter misread it.
func foreign(key string) bool {
	domain, name, prefixed := strings.Cut(key, "/")
	if !prefixed {
		return slices.Contains([]string{"heritage", "release", "chart", "imported_by"}, key)
	}
	if domain == "app.kubernetes.io" {
		return name == "instance" || name == "managed-by"
	}
	for _, owner := range []string{
		"argoproj.io", "fluxcd.io", "helm.sh", "kustomize.config.k8s.io", "config.kubernetes.io", "config.k8s.io", "kubectl.kubernetes.io", "applyset.kubernetes.io",
		"cattle.io", "k14s.io", "crossplane.io", "pulumi.com", "karpenter.sh", "karpenter.k8s.aws", "nops.io", "helm.toolkit.fluxcd.io", "kpt.dev", "open-cluster-management.io",
	} {
		if domain == owner || strings.HasSuffix(domain, "."+owner) {
			return true
		}
	}
	return strings.Contains(domain, "kustomize") || strings.Contains(domain, "gitops")
}

// inherit copies what may be copied of a map of labels or annotations.
func inherit(v any) map[string]any {
	kept := map[string]any{}
	m, _ := v.(map[string]any)
	for key, value := range m {
		if !foreign(key) {
			kept[key] = value
		}
	}
	return kept
}

package rules

import (
	"path"
	"regexp"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// JVM is what a container's command line and environment say of Java.
type JVM struct {
	Is bool
	// Heap is the largest heap in bytes, by -Xmx or -XX:MaxHeapSize; 0 is none.
	Heap int64
	// OfLimit says that the heap is a share of the memory limit as it is when Java starts: by MaxRAMPercentage, or because nothing is said.
	OfLimit bool
}

var (
	heap    = regexp.MustCompile(`(?:^|\s|["'=])(?:-Xmx|-XX:MaxHeapSize=)(\d+)([kKmMgGtT]?)`)
	percent = regexp.MustCompile(`-XX:MaxRAM(?:Percentage|Fraction)=`)
	shell   = regexp.MustCompile(`(?:^|[\s;&|(/])java\s+(?:-|[\w.$]+)`)
)

// DetectJVM looks for Java in a container. Options that come from a ConfigMap, a Secret or the image are not seen.
func DetectJVM(c *corev1.Container) JVM {
	var j JVM
	var texts []string
	words := append(append([]string{}, c.Command...), c.Args...)
	for _, w := range words {
		if path.Base(w) == "java" || shell.MatchString(w) {
			j.Is = true
		}
		texts = append(texts, w)
	}
	for _, e := range c.Env {
		switch e.Name {
		case "JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS", "_JAVA_OPTIONS", "JAVA_OPTS", "JAVA_OPTIONS", "CATALINA_OPTS", "JAVA_HOME", "JAVA_VERSION":
			j.Is = true
			texts = append(texts, e.Value)
		default:
			if strings.Contains(e.Value, "-Xmx") || strings.Contains(e.Value, "-XX:") {
				texts = append(texts, e.Value)
			}
		}
	}
	share := false
	for _, t := range texts {
		share = share || percent.MatchString(t)
		for _, m := range heap.FindAllStringSubmatch(t, -1) {
			n, err := strconv.ParseInt(m[1], 10, 64)
			if err != nil {
				continue
			}
			shift := map[string]uint{"": 0, "k": 10, "m": 20, "g": 30, "t": 40}[strings.ToLower(m[2])]
			if n <= (1<<62)>>shift {
				j.Heap = max(j.Heap, n<<shift)
			}
		}
	}
	j.Is = j.Is || share || j.Heap > 0
	j.OfLimit = j.Is && j.Heap == 0
	return j
}

// Needs is what Java needs with its heap full: metaspace, code, threads and buffers besides. It is 0 where the heap is not known.
func (j JVM) Needs() resource.Quantity {
	if j.Heap == 0 {
		return resource.Quantity{}
	}
	const least, most = 128 << 20, 1 << 30
	return *resource.NewQuantity(j.Heap+min(max(j.Heap/4, least), most), resource.BinarySI)
}

package rules

import (
	"math"
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
	// Heap is the largest heap in bytes, by -Xmx or -XX:MaxHeapSize; 0 is none. Least is what it begins with, by -Xms or -XX:InitialHeapSize; 0 is none.
	Heap, Least int64
	// OfLimit says that the heap is a share of the memory limit as it is when Java starts: by MaxRAMPercentage, or because nothing is said. Percent is
	// that share.
	OfLimit bool
	Percent float64
}

// ownPercent is the share that Java takes where no other is said. It is held on the same evidence as the limit, which is why nothing more is asked
// for: any of the words by which Java is known. Where they mislead, as where a ConfigMap holds an -Xmx, a request stays at a third of a limit of 512Mi or
// more, and at up to all of a smaller one, of which what is around the heap is most.
const ownPercent = 25

var (
	heap    = regexp.MustCompile(`(?:^|\s|["'=])(-Xmx|-XX:MaxHeapSize=|-Xms|-XX:InitialHeapSize=)(\d+)([kKmMgGtT]?)`)
	percent = regexp.MustCompile(`-XX:(Max|Min|Initial)RAM(Percentage|Fraction)=["']?(\d*\.?\d*)`)
	shell   = regexp.MustCompile(`(?:^|[\s;&|(/])java\s+(?:-|[\w.$]+)`)
)

// DetectJVM looks for Java in a container. It sees what the pod says itself: options that come from a ConfigMap, a Secret, the image or a file are not
// seen, nor is a number that a variable stands for. Of several options of one kind the largest holds. InitialRAMPercentage and MinRAMPercentage are
// evidence of Java and nothing else: neither makes the heap larger than MaxRAMPercentage does, but for the little that Needs knows of.
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
	share := 0.0
	for _, t := range texts {
		for _, m := range percent.FindAllStringSubmatch(t, -1) {
			j.Is = true
			n, err := strconv.ParseFloat(m[3], 64)
			if err != nil || m[1] != "Max" {
				continue
			}
			if m[2] == "Fraction" {
				if n < 1 {
					continue
				}
				n = 100 / n
			}
			share = min(max(share, n), 100)
		}
		for _, m := range heap.FindAllStringSubmatch(t, -1) {
			n, err := strconv.ParseInt(m[2], 10, 64)
			if err != nil {
				continue
			}
			shift := map[string]uint{"": 0, "k": 10, "m": 20, "g": 30, "t": 40}[strings.ToLower(m[3])]
			if n > (1<<62)>>shift {
				continue
			}
			if strings.HasPrefix(m[1], "-Xms") || strings.HasPrefix(m[1], "-XX:Initial") {
				j.Least = max(j.Least, n<<shift)
			} else {
				j.Heap = max(j.Heap, n<<shift)
			}
		}
	}
	j.Is = j.Is || j.Heap > 0
	if j.OfLimit = j.Is && j.Heap == 0; j.OfLimit {
		j.Percent = share
		if share == 0 {
			j.Percent = ownPercent
		}
	}
	if !j.Is {
		j.Least = 0
	}
	return j
}

// heapOf is the largest heap in bytes under a memory limit; 0 is not known, and a limit of zero is none: the share is one of the node's memory then,
// and of a new pod nobody knows the node.
func (j JVM) heapOf(limit int64) int64 {
	if !j.OfLimit || limit <= 0 {
		return max(j.Heap, j.Least)
	}
	// Whatever the percentage, Java takes half of a limit of less than 250Mi, and 125Mi of a larger one.
	const small = 125 << 20
	heap := limit
	if j.Percent < 100 {
		heap = int64(float64(limit) * (j.Percent / 100))
	}
	return max(heap, min(limit/2, small), j.Least)
}

// Needs is the memory that Java needs with its heap full under a memory limit, zero for none: metaspace, code, threads and buffers besides, for which
// a quarter of the heap is added, 128Mi at least and 1Gi at most. It is 0 where the heap is not known: where it is a share and there is no limit.
func (j JVM) Needs(limit resource.Quantity) resource.Quantity {
	heap := j.heapOf(limit.Value())
	if heap == 0 {
		return resource.Quantity{}
	}
	const least, most = 128 << 20, 1 << 30
	around := min(max(heap/4, least), most)
	return *resource.NewQuantity(min(heap, math.MaxInt64-around)+around, resource.BinarySI)
}

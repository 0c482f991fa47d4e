package karpenter

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Node is a NodeClaim from its creation to its end. Moments are seconds since the timeline began, nil before they came.
type Node struct {
	Name         string   `json:"name"` // POOL-1, POOL-2 … in the order of creation: Karpenter's own names are random
	Pool         string   `json:"pool"`
	Type         string   `json:"type"`
	CapacityType string   `json:"capacity_type"`
	Zone         string   `json:"zone"`
	VCPU         int      `json:"vcpu"`
	Created      float64  `json:"created"`
	Ready        *float64 `json:"ready,omitempty"`     // initialized: pods may be bound
	Drifted      []Mark   `json:"drifted,omitempty"`   // each time the mark Drifted came or went
	Disrupted    *Mark    `json:"disrupted,omitempty"` // Karpenter began to take it away, and why: Underutilized, Empty, Drifted
	Deleting     *float64 `json:"deleting,omitempty"`
	Gone         *float64 `json:"gone,omitempty"`
}

// Mark is a condition that came, with its reason, or went, without.
type Mark struct {
	At     float64 `json:"at"`
	Reason string  `json:"reason,omitempty"`
}

// Pods are how many of the watched namespace's pods there were from a moment on.
type Pods struct {
	At      float64        `json:"at"`
	Pending int            `json:"pending"`
	Running map[string]int `json:"running"` // by pool of the node
}

// Timeline is what happened to NodeClaims and pods while it was watched.
type Timeline struct {
	began time.Time
	mu    sync.Mutex
	nodes []*Node
	pods  []snapshot
	// The rest is for reading events.
	byUID map[string]*Node
	bound map[string]string // pod → name of its node, "" while pending
	pools map[string]string // name of a node → pool
	err   error
	stop  context.CancelFunc
	done  sync.WaitGroup
}

// Command makes a kubectl command; the arguments name what it is to do.
type Command func(ctx context.Context, args ...string) *exec.Cmd

// Watch begins a timeline with the NodeClaims, and pods of a namespace, that are there. It ends with the context or with End.
func Watch(ctx context.Context, command Command, namespace string) (*Timeline, error) {
	ctx, cancel := context.WithCancel(ctx)
	t := &Timeline{began: time.Now(), byUID: map[string]*Node{}, bound: map[string]string{}, pools: map[string]string{}, stop: cancel}
	for _, w := range []struct {
		args []string
		read func(event)
	}{
		{[]string{"get", "nodeclaims.karpenter.sh"}, t.claim},
		{[]string{"get", "pods", "--namespace=" + namespace}, t.pod},
	} {
		cmd := command(ctx, append(w.args, "--watch", "--output-watch-events", "--output=json")...)
		// Not a kill: what passes it on to a program elsewhere could not.
		cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
		cmd.WaitDelay = 5 * time.Second
		out, err := cmd.StdoutPipe()
		if err != nil {
			cancel()
			return nil, fmt.Errorf("watch: %w", err)
		}
		if err := cmd.Start(); err != nil {
			cancel()
			return nil, fmt.Errorf("watch: %w", err)
		}
		t.done.Go(func() {
			err := t.follow(out, w.read)
			if ended := cmd.Wait(); ctx.Err() == nil {
				t.mu.Lock()
				t.err = errors.Join(t.err, fmt.Errorf("the watch of %s ended: %w", w.args[1], errors.Join(err, ended)))
				t.mu.Unlock()
			}
		})
	}
	return t, nil
}

// End stops watching.
func (t *Timeline) End() {
	t.stop()
	t.done.Wait()
}

func (t *Timeline) follow(out io.Reader, read func(event)) error {
	decoder := json.NewDecoder(bufio.NewReader(out))
	for {
		var e event
		if err := decoder.Decode(&e); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return fmt.Errorf("read an event: %w", err)
		}
		t.mu.Lock()
		read(e)
		t.mu.Unlock()
	}
}

type event struct {
	Type   string `json:"type"`
	Object struct {
		Metadata struct {
			Name              string            `json:"name"`
			UID               string            `json:"uid"`
			Labels            map[string]string `json:"labels"`
			DeletionTimestamp string            `json:"deletionTimestamp"`
		} `json:"metadata"`
		Spec struct {
			NodeName string `json:"nodeName"`
		} `json:"spec"`
		Status struct {
			NodeName   string            `json:"nodeName"`
			Capacity   map[string]string `json:"capacity"`
			Phase      string            `json:"phase"`
			Conditions []struct {
				Type, Status, Reason string
			} `json:"conditions"`
		} `json:"status"`
	} `json:"object"`
}

func (t *Timeline) now() float64 { return math.Round(time.Since(t.began).Seconds()*10) / 10 }

func (t *Timeline) claim(e event) {
	o := e.Object
	n := t.byUID[o.Metadata.UID]
	if n == nil {
		n = &Node{Pool: o.Metadata.Labels["karpenter.sh/nodepool"], Created: t.now()}
		number := 1
		for _, other := range t.nodes {
			if other.Pool == n.Pool {
				number++
			}
		}
		n.Name = n.Pool + "-" + strconv.Itoa(number)
		t.byUID[o.Metadata.UID] = n
		t.nodes = append(t.nodes, n)
	}
	labels := o.Metadata.Labels
	n.Type, n.CapacityType, n.Zone = labels["node.kubernetes.io/instance-type"], labels["karpenter.sh/capacity-type"], labels["topology.kubernetes.io/zone"]
	n.VCPU, _ = strconv.Atoi(labels["karpenter.k8s.aws/instance-cpu"])
	if o.Status.NodeName != "" {
		t.pools[o.Status.NodeName] = n.Pool
	}
	drifted := ""
	for _, c := range o.Status.Conditions {
		switch {
		case c.Status != "True":
		case c.Type == "Initialized" && n.Ready == nil:
			n.Ready = new(t.now())
		case c.Type == "Drifted":
			drifted = c.Reason
		case c.Type == "DisruptionReason" && n.Disrupted == nil:
			n.Disrupted = &Mark{t.now(), c.Reason}
		}
	}
	if last := len(n.Drifted) - 1; last < 0 && drifted != "" || last >= 0 && n.Drifted[last].Reason != drifted {
		n.Drifted = append(n.Drifted, Mark{t.now(), drifted})
	}
	if o.Metadata.DeletionTimestamp != "" && n.Deleting == nil {
		n.Deleting = new(t.now())
	}
	if e.Type == "DELETED" {
		if n.Deleting == nil {
			n.Deleting = new(t.now())
		}
		n.Gone = new(t.now())
	}
}

func (t *Timeline) pod(e event) {
	o := e.Object
	if e.Type == "DELETED" || o.Status.Phase == "Succeeded" || o.Status.Phase == "Failed" {
		delete(t.bound, o.Metadata.UID)
	} else {
		t.bound[o.Metadata.UID] = ""
		if o.Status.Phase == "Running" {
			t.bound[o.Metadata.UID] = o.Spec.NodeName
		}
	}
	p := snapshot{t.now(), slices.Collect(maps.Values(t.bound))}
	if last := len(t.pods) - 1; last >= 0 && t.pods[last].at == p.at {
		t.pods[last] = p
		return
	}
	t.pods = append(t.pods, p)
}

// snapshot is where the pods were from a moment on. A node's name may be seen here before it is seen whose it is.
type snapshot struct {
	at    float64
	nodes []string // of each pod, "" while pending
}

// Nodes are all NodeClaims that were seen, in the order of their creation, and an error if some may have been missed.
func (t *Timeline) Nodes() ([]Node, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	all := make([]Node, 0, len(t.nodes))
	for _, n := range t.nodes {
		c := *n
		c.Drifted = slices.Clone(n.Drifted)
		all = append(all, c)
	}
	return all, t.err
}

// Pods are the numbers of pods at each moment at which they changed.
func (t *Timeline) Pods() []Pods {
	t.mu.Lock()
	defer t.mu.Unlock()
	var all []Pods
	for _, s := range t.pods {
		p := Pods{At: s.at, Running: map[string]int{}}
		for _, node := range s.nodes {
			if node == "" {
				p.Pending++
			} else {
				p.Running[t.pools[node]]++
			}
		}
		if last := len(all) - 1; last >= 0 && all[last].Pending == p.Pending && maps.Equal(all[last].Running, p.Running) {
			continue
		}
		all = append(all, p)
	}
	return all
}

// Seconds since the timeline began.
func (t *Timeline) Seconds() float64 { return t.now() }

// Ready says how many nodes of a pool are there to stay, and whether any of its nodes comes or goes.
func Ready(nodes []Node, pool string) (count int, moving bool) {
	for _, n := range nodes {
		switch {
		case n.Pool != pool || n.Gone != nil:
		case n.Ready == nil || n.Deleting != nil:
			moving = true
		default:
			count++
		}
	}
	return count, moving
}

// MostDeleting says for each pool how many of its nodes were being deleted at once, at most, since a moment.
func MostDeleting(nodes []Node, since float64) map[string]int {
	most := map[string]int{}
	for _, n := range nodes {
		if n.Deleting == nil || *n.Deleting < since {
			continue
		}
		count := 0
		for _, other := range nodes {
			if other.Pool == n.Pool && other.Deleting != nil && *other.Deleting <= *n.Deleting && (other.Gone == nil || *other.Gone > *n.Deleting) {
				count++
			}
		}
		// One that was gone within the resolution of the clock was there all the same.
		most[n.Pool] = max(most[n.Pool], count, 1)
	}
	return most
}

// Describe is one line for people.
func Describe(nodes []Node) string {
	var parts []string
	for _, n := range nodes {
		state := "ready"
		switch {
		case n.Gone != nil:
			state = fmt.Sprintf("gone at %.1f s", *n.Gone)
		case n.Deleting != nil:
			state = "deleting"
		case n.Ready == nil:
			state = "coming"
		case len(n.Drifted) > 0 && n.Drifted[len(n.Drifted)-1].Reason != "":
			state = n.Drifted[len(n.Drifted)-1].Reason
		}
		parts = append(parts, fmt.Sprintf("%s %s %s %s", n.Name, n.Type, n.CapacityType, state))
	}
	if len(parts) == 0 {
		return "no node"
	}
	return strings.Join(parts, "; ")
}

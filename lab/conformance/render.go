package conformance

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

// An Object is one document of a render.
type Object struct {
	APIVersion string                  `json:"apiVersion"`
	Kind       string                  `json:"kind"`
	Metadata   metav1.ObjectMeta       `json:"metadata"`
	Pod        *corev1.PodTemplateSpec `json:"-"` // of the pods that it makes; nil: none
	Text       []byte                  `json:"-"`
}

// ID names an object within a render.
func (o Object) ID() string { return o.Kind + "/" + o.Metadata.Name }

// A Parser reads renders. Those of one chart are much alike: a document that it has read before it does not read again.
type Parser struct {
	seen map[string]*Object
}

// Parse reads the documents of a render. Those that hold nothing but comments (the notes) are left out.
func (p *Parser) Parse(render []byte) ([]Object, error) {
	var all []Object
	for _, text := range bytes.Split(append([]byte("\n"), render...), []byte("\n---\n")) {
		o, ok := p.seen[string(text)]
		if !ok {
			var err error
			if o, err = parse(text); err != nil {
				return nil, err
			}
			if p.seen == nil {
				p.seen = map[string]*Object{}
			}
			p.seen[string(text)] = o
		}
		if o != nil {
			all = append(all, *o)
		}
	}
	return all, nil
}

func parse(text []byte) (*Object, error) {
	var o *Object
	if err := yaml.Unmarshal(text, &o); err != nil {
		return nil, fmt.Errorf("parse a document of the render: %w in\n%s", err, text)
	}
	if o == nil {
		return nil, nil
	}
	if o.APIVersion == "" || o.Kind == "" || o.Metadata.Name == "" {
		return nil, fmt.Errorf("a document of the render has no apiVersion, kind or name:\n%s", text)
	}
	o.Text = text
	var err error
	o.Pod, err = o.pod()
	return o, err
}

func (o Object) pod() (*corev1.PodTemplateSpec, error) {
	type job struct {
		Spec struct {
			Template *corev1.PodTemplateSpec `json:"template"`
		} `json:"spec"`
	}
	switch o.Kind {
	case "Deployment", "DaemonSet", "StatefulSet", "ReplicaSet", "Job":
		var w job
		err := o.decode(&w)
		return w.Spec.Template, err
	case "CronJob":
		var w struct {
			Spec struct {
				JobTemplate job `json:"jobTemplate"`
			} `json:"spec"`
		}
		err := o.decode(&w)
		return w.Spec.JobTemplate.Spec.Template, err
	case "Pod":
		var w corev1.PodTemplateSpec
		err := o.decode(&w)
		return &w, err
	}
	return nil, nil
}

// decode leaves unknown fields to kubeconform, which says where they are.
func (o Object) decode(into any) error {
	if err := yaml.Unmarshal(o.Text, into); err != nil {
		return fmt.Errorf("%s: decode: %w", o.ID(), err)
	}
	return nil
}

// containers are all containers of a pod, those that run first included.
func containers(pod *corev1.PodTemplateSpec) []corev1.Container {
	return slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers)
}

// runsOn says that a workload's pods are meant to run until they are replaced.
func (o Object) runsOn() bool {
	return strings.HasSuffix(o.Kind, "Set") || o.Kind == "Deployment"
}

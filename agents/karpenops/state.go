package karpenops

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/nopsctl/nopsctl/agents/internal/agent"
	"github.com/nopsctl/nopsctl/internal/karpenstate"
	"github.com/nopsctl/nopsctl/pkg/nopsapi"
)

// recorded is what the ConfigMap holds.
type recorded struct {
	status string
	ledger []nopsapi.KarpenterRecord
	memory []byte
}

// stateReader reads the ConfigMap.
type stateReader interface {
	read(ctx context.Context) (recorded, error)
	// pause says why nothing may be written anywhere in the cluster now.
	pause(ctx context.Context, now time.Time) (string, error)
}

// stateOf reads it from the API server.
type stateOf struct {
	kube      rest.Interface // of write.NewClient
	namespace string
}

var _ stateReader = (*stateOf)(nil)

func (s *stateOf) request() *rest.Request {
	return s.kube.Get().AbsPath("/api/v1/namespaces", s.namespace, "configmaps", karpenstate.ConfigMap)
}

// read takes the ConfigMap apart. That there is none is nothing wrong: the agent never ran here.
func (s *stateOf) read(ctx context.Context) (recorded, error) {
	answer, err := agent.Raw(s.request().Do(ctx))
	if agent.StatusOf(err) == http.StatusNotFound {
		return recorded{}, nil
	}
	var cm corev1.ConfigMap
	if err == nil {
		err = json.Unmarshal(answer, &cm)
	}
	if err != nil {
		return recorded{}, fmt.Errorf("reading ConfigMap %s/%s: %w", s.namespace, karpenstate.ConfigMap, err)
	}
	r := recorded{status: cm.Data[karpenstate.KeyStatus], memory: cm.BinaryData[karpenstate.KeyMemory]}
	var ledger karpenstate.Ledger
	if text := cm.Data[karpenstate.KeyLedger]; text != "" {
		// One that cannot be read is the writer's to say; what follows from it here is only that nothing of it is told again.
		if err := json.Unmarshal([]byte(text), &ledger); err == nil {
			r.ledger = ledger.Entries
		}
	}
	return r, nil
}

// pause asks for the metadata alone: the rest is hundreds of KiB, each minute.
func (s *stateOf) pause(ctx context.Context, now time.Time) (string, error) {
	answer, err := agent.Raw(s.request().SetHeader("Accept", "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json").Do(ctx))
	if agent.StatusOf(err) == http.StatusNotFound {
		return "", nil
	}
	var m metav1.PartialObjectMetadata
	if err == nil {
		err = json.Unmarshal(answer, &m)
	}
	if err != nil {
		return "", fmt.Errorf("reading ConfigMap %s/%s: %w", s.namespace, karpenstate.ConfigMap, err)
	}
	if by := karpenstate.PausedBy(m.Annotations); by != "" {
		return "paused by " + by, nil
	}
	return frozen(m.Annotations[karpenstate.AnnotationFreeze], now), nil
}

package install

import (
	"fmt"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nopsctl/nopsctl/pkg/verify/extract"
)

// drift finds workloads whose images somebody changed behind the release's back. Of a release that is pinned it is a change
// that applying undoes: Helm compares what it wants with what is live. Without pins images are what their owner says.
func (p *planner) drift() error {
	if p.pins == nil || p.fresh {
		return nil
	}
	for n := range p.Changes {
		if p.Changes[n].Action != Unchanged {
			continue
		}
		for _, o := range p.objects {
			if o.String() != p.Changes[n].Object || !isWorkload(o.GetKind()) {
				continue
			}
			live, err := p.resource(o).Get(p.ctx, o.GetName(), metav1.GetOptions{})
			if apierrors.IsNotFound(err) {
				continue
			}
			if err != nil {
				return explain("read "+o.String(), err)
			}
			if other := otherImages(o, object{Unstructured: live}); len(other) > 0 {
				p.Changes[n].Action, p.Changes[n].Note = Update, "somebody changed what it runs: "+strings.Join(other, ", ")
			}
		}
	}
	return nil
}

// otherImages are the images of a live workload that are not those of the wanted one.
func otherImages(want, live object) []string {
	wanted := map[string]bool{}
	for _, use := range extract.Find([]map[string]any{want.Object}) {
		wanted[use.Text] = true
	}
	var other []string
	for _, use := range extract.Find([]map[string]any{live.Object}) {
		if use.Kind == extract.Image && !wanted[use.Text] {
			other = append(other, fmt.Sprintf("%.300s", use.Text))
		}
	}
	return other
}

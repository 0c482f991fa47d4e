package inventory

import (
	"strings"
	"time"
)

// Unread says what of Karpenter's was not read yet and will be in a moment, "" if nothing is: node classes, whose kinds only the NodePools tell, and overlays.
// Decisions can do without (see Snapshot.Problem for what they cannot do without), so it is worth a short wait, and no more. What cannot be read is not waited for.
func (w *Watcher) Unread() string {
	kinds := w.named()
	w.mu.Lock()
	defer w.mu.Unlock()
	var unread []string
	waits := func(what string, h interface {
		health() (bool, time.Time, string)
	}) {
		if listed, _, problem := h.health(); !listed && problem == "" {
			unread = append(unread, what)
		}
	}
	for _, kind := range kinds {
		known := w.found.missing[kind] != ""
		for gvk, k := range w.classes {
			if gvk.GroupKind() == kind {
				known = true
				waits(kind.Kind, k)
			}
		}
		if !known {
			unread = append(unread, kind.Kind)
		}
	}
	if w.overlays != nil {
		waits("NodeOverlay", w.overlays)
	}
	return strings.Join(unread, ", ")
}

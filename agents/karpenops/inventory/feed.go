package inventory

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/nopsctl/nopsctl/agents/internal/agent"
)

const (
	// pageSize bounds what a list holds in memory before it is stripped. client-go's reflector would keep the whole list: the
	// pods of two thousand nodes are hundreds of MiB where the API server does not stream lists.
	pageSize = 200
	// watchFor is how long one watch lasts; the server ends it then, and it goes on from where it was.
	watchFor = 8 * time.Minute
	// quiet is how long a watch may say nothing, bookmarks included, before it is taken for dead.
	quiet = 4 * time.Minute
)

// source is where objects of one resource come from.
type source struct {
	list  func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error)
	watch func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error)
}

// feed keeps the objects of one resource, each stripped when it arrives.
type feed[T any] struct {
	source source
	strip  func(o runtime.Object) (T, bool) // false: not worth keeping
	notify func()
	now    func() time.Time
	rnd    agent.Rand

	mu      sync.Mutex
	items   map[string]T
	listed  bool
	broken  time.Time // since when it is behind; zero: it is not
	problem string
}

func newFeed[T any](s source, strip func(runtime.Object) (T, bool), notify func(), now func() time.Time, rnd agent.Rand) *feed[T] {
	return &feed[T]{source: s, strip: strip, notify: notify, now: now, rnd: rnd, items: map[string]T{}, broken: now()}
}

// health says whether everything was listed once, since when the feed is behind, and why.
func (f *feed[T]) health() (listed bool, behind time.Time, problem string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.listed, f.broken, f.problem
}

// each calls do for each item. The items are shared: read only.
func (f *feed[T]) each(do func(key string, item T)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for k, v := range f.items {
		do(k, v)
	}
}

// run keeps the feed until the context ends. It outlives every trouble of the API server, and says since when it is behind.
func (f *feed[T]) run(ctx context.Context) {
	backoff := agent.Backoff{Base: time.Second, Max: 30 * time.Second, Rand: f.rnd}
	for version := ""; ; {
		var err error
		if version == "" {
			version, err = f.relist(ctx)
		}
		if err == nil {
			version, err = f.follow(ctx, version, backoff.Reset)
		}
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			continue
		}
		f.mu.Lock()
		if f.broken.IsZero() {
			f.broken = f.now()
		}
		f.problem = err.Error()
		f.mu.Unlock()
		wait := backoff.Next(0)
		if status := agent.StatusOf(err); status == http.StatusForbidden || status == http.StatusNotFound || status == http.StatusUnauthorized {
			wait = time.Minute // somebody has to do something; the manager ends the feed of what is served no more
		}
		if agent.Sleep(ctx, wait) != nil {
			return
		}
	}
}

// relist reads everything, page by page.
func (f *feed[T]) relist(ctx context.Context) (version string, err error) {
	items := map[string]T{}
	for o := (metav1.ListOptions{Limit: pageSize}); ; {
		page, err := f.source.list(ctx, o)
		if err != nil {
			return "", err
		}
		if err := meta.EachListItem(page, func(o runtime.Object) error {
			f.keep(items, o)
			return nil
		}); err != nil {
			return "", fmt.Errorf("reading a list: %w", err)
		}
		list, err := meta.ListAccessor(page)
		if err != nil {
			return "", fmt.Errorf("reading a list: %w", err)
		}
		if o.Continue = list.GetContinue(); o.Continue == "" {
			version = list.GetResourceVersion()
			break
		}
	}
	f.mu.Lock()
	f.items, f.listed, f.broken, f.problem = items, true, time.Time{}, ""
	f.mu.Unlock()
	f.notify()
	return version, nil
}

func (f *feed[T]) keep(items map[string]T, o runtime.Object) {
	m, err := meta.Accessor(o)
	if err != nil {
		return
	}
	item, worth := f.strip(o)
	if !worth {
		delete(items, key(m))
		return
	}
	items[key(m)] = item
}

func key(m metav1.Object) string {
	if m.GetNamespace() == "" {
		return m.GetName()
	}
	return m.GetNamespace() + "/" + m.GetName()
}

// follow takes in changes until the watch ends, and returns where it came to; "" asks for a new list.
func (f *feed[T]) follow(ctx context.Context, version string, alive func()) (string, error) {
	seconds := int64(watchFor.Seconds())
	w, err := f.source.watch(ctx, metav1.ListOptions{ResourceVersion: version, AllowWatchBookmarks: true, TimeoutSeconds: &seconds})
	if err != nil {
		return again(version, err)
	}
	defer w.Stop()
	dead := time.NewTimer(quiet)
	defer dead.Stop()
	for {
		select {
		case <-ctx.Done():
			return version, nil
		case <-dead.C:
			return version, fmt.Errorf("the watch said nothing for %s", quiet)
		case e, open := <-w.ResultChan():
			if !open {
				return version, nil
			}
			dead.Reset(quiet)
			if e.Type == watch.Error {
				return again(version, apiError(e.Object))
			}
			m, err := meta.Accessor(e.Object)
			if err != nil {
				return "", fmt.Errorf("reading a change: %w", err)
			}
			version = m.GetResourceVersion()
			f.take(e, m)
			alive()
		}
	}
}

func (f *feed[T]) take(e watch.Event, m metav1.Object) {
	f.mu.Lock()
	f.broken, f.problem = time.Time{}, ""
	switch e.Type {
	case watch.Added, watch.Modified:
		f.keep(f.items, e.Object)
	case watch.Deleted:
		delete(f.items, key(m))
	case watch.Bookmark:
		f.mu.Unlock()
		return
	}
	f.mu.Unlock()
	f.notify()
}

// again says where to go on after an error: a version that the server has forgotten asks for a new list.
func again(version string, err error) (string, error) {
	if s := agent.StatusOf(err); s == http.StatusGone || s == http.StatusNotFound || s == http.StatusInternalServerError {
		return "", err
	}
	return version, err
}

// apiError is the error that a watch delivered.
func apiError(o runtime.Object) error {
	if s, is := o.(*metav1.Status); is {
		return &statusError{*s}
	}
	return fmt.Errorf("the watch delivered an error of type %T", o)
}

type statusError struct{ status metav1.Status }

func (e *statusError) Error() string         { return e.status.Message }
func (e *statusError) Status() metav1.Status { return e.status }

package admission

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nopsctl/nopsctl/internal/rightsizing"
)

// renewing renews, until the context ends, the Lease by which the updater knows that somebody answers. Upstream's updater of it would make one without
// labels, by which nobody could tell whose it is: uninstalling would leave it, and the namespace for its sake.
func (c *Controller) renewing(ctx context.Context) {
	failed := false
	for {
		wait := leaseEvery
		if c.Ready() == "" {
			limit, cancel := context.WithTimeout(ctx, leaseEvery)
			err := c.renew(limit)
			cancel()
			if err != nil && !failed && ctx.Err() == nil {
				c.deps.Log.LogAttrs(ctx, slog.LevelWarn, "the updater is not told that the webhook answers; where nobody else tells it, it evicts nobody", slog.Any("error", err))
			}
			failed = err != nil
		} else {
			wait = time.Second // no pod would be sized
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

// renew renews the Lease, whichever replica's it is: all of them answer.
func (c *Controller) renew(ctx context.Context) error {
	leases, now, seconds := c.kube.CoordinationV1().Leases(c.deps.Namespace), metav1.NewMicroTime(c.deps.Now()), int32(leaseEvery.Seconds())
	lease, err := leases.Get(ctx, rightsizing.AdmissionService, metav1.GetOptions{})
	there := err == nil
	switch {
	case apierrors.IsNotFound(err):
		lease = &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: c.deps.Namespace, Name: rightsizing.AdmissionService}}
	case err != nil:
		return fmt.Errorf("reading Lease %s/%s: %w", c.deps.Namespace, rightsizing.AdmissionService, err)
	}
	if lease.Labels == nil {
		lease.Labels = map[string]string{}
	}
	maps.Copy(lease.Labels, c.deps.Labels)
	lease.Spec.RenewTime, lease.Spec.HolderIdentity, lease.Spec.LeaseDurationSeconds = &now, &c.deps.Name, &seconds
	if there {
		_, err = leases.Update(ctx, lease, metav1.UpdateOptions{})
	} else {
		_, err = leases.Create(ctx, lease, metav1.CreateOptions{})
	}
	if err != nil && !apierrors.IsConflict(err) && !apierrors.IsAlreadyExists(err) { // another replica was faster
		return fmt.Errorf("writing Lease %s/%s: %w", c.deps.Namespace, rightsizing.AdmissionService, err)
	}
	return nil
}

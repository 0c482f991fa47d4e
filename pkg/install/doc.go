// Package install is the lifecycle of the release: plan, apply (install and upgrade are one), toggle, uninstall, status.
//
// It is the only package that imports Helm. The chart comes in as an fs.FS, values and credentials as maps, what happens
// goes out as events; the package prints nothing and knows no brand of values beyond the paths the chart publishes.
//
// # Plan, then apply
//
// Engine.Plan reads the cluster and the release, merges values (the chart's defaults, then what the release has stored,
// then this command's), checks what must hold before the first write, renders with the cluster's real capabilities and
// compares. It writes nothing. Engine.Apply does what the plan says: namespace, identity, credentials, release, wait.
//
// # Helm stays Helm
//
// Releases are stored where helm stores them (Secrets) and objects are applied as helm 3 applies them (three-way merge on
// the client), so `helm` works on a release of ours and ours on one of helm's.
//
// # Interruption
//
// Helm's own actions, when their context ends, return while their work goes on behind them. Here they get a context that
// does not end and a transport that does: requests for objects fail as soon as the caller's context is done, requests for
// the release's record do not. Helm therefore sees an ordinary error, stops, and records the revision as failed itself.
//
// # Credentials
//
// Credentials live in one Secret (CredentialsSecret) and never in values, plans, events or errors. Those found inline in
// the values of a release made by plain helm are moved there. One exception: with External Secrets the chart reads the keys of
// the metrics store from its values unless the store has them. A release that has them there keeps them, with a warning;
// new ones are refused.
//
// # Images
//
// With an Admission in the request every image that the chart renders is shown to it, once and before the first write. What
// comes back is a reference to bytes (pkg/verify/ref.Admitted), which nobody but verification can make, and those bytes are
// what the plan compares and what Helm applies: one pass over the manifests (pinner) pins both, the latter as Helm's
// post-renderer. A tag is not asked for again, so that it may move meanwhile. Helm 3 does not post-render hooks, nor what is
// in crds/: images there must have a digest in the chart. What a chart renders only when it is applied stops it.
//
// Without an Admission, images that the release runs by digest keep it: disabling a component needs no registry and un-pins
// nothing.
//
// What was accepted, and when it was signed, is in a lock that is an object of the release (LockConfigMap): Helm's rollback
// and uninstall take it along.
//
// # Definitions of custom resources
//
// They are rendered like everything else, so that upgrades reach them, and Helm keeps them when the release goes. Uninstall
// then removes those that nothing uses; the others stay, named with the number of their objects, unless asked otherwise.
package install

// Package gcpace makes the garbage collector of nopsctl wait until the heap is four times as large as what is in use.
//
// nopsctl lives for a second and holds some ten megabytes, most of which packages it is made of set up before main runs: collecting
// that several times over costs a quarter of the time that `nopsctl version` takes, for two megabytes. The limit keeps a large mirror or manifest
// from taking four times its size. It is a package of its own because main begins after all others are set up; this one depends on
// nothing that takes long, so it comes before most.
//
// GOGC and GOMEMLIMIT in the environment are heeded instead (see the documentation of package runtime).
package gcpace

import (
	"os"
	"runtime/debug"
)

const (
	percent = 300       // of what is in use, new, before a collection; the runtime's own default is 100
	limit   = 256 << 20 // bytes; towards it collections come as often as they have to
)

func init() { //nolint:gochecknoinits // the whole point: main is too late
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(percent)
	}
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(limit)
	}
}

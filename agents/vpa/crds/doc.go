// Package crds keeps the chart's definitions of the group vpa.nops.io equal to what the programs mean: those of version v1 are made
// from upstream's, of the release that is linked in, with our status; the one of RightsizingPolicy is held against its Go type.
package crds

// Package vpasuite holds what the VPA of Kubernetes promises, case by case, as its own end-to-end suites do, in tests of our own that know
// the API group only as a parameter: both VPAs are asked the same, in one lab, on real containers. docs/vpa-behaviour.md is the outcome.
//
//	bin/lab up --name suite --components all
//	cd lab && NOPSCTL_LAB=suite go test ./vpasuite -count=1 -timeout 60m -v -args -write
//
// Without a lab only the list itself is held to its numbers and to the document.
package vpasuite

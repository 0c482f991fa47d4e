// Package vpasuite holds what the VPA of Kubernetes promises, case by case, as its own end-to-end suites do, in tests of our own that know
// the API group only as a parameter: both VPAs are asked the same, in one lab, on real containers. docs/vpa-behaviour.md is the outcome.
//
//	make test-vpa-behaviour                       all cases, in a lab of their own; BEHAVIOUR=-write rewrites the document
//
//	bin/lab up --name suite --components all      some cases, in a lab that stays up
//	cd lab && NOPSCTL_LAB=suite go test ./vpasuite -count=1 -v -run 'TestBehaviour/ours/(12|55)-'
//
// Without a lab only the list itself is held to its numbers and to the document.
package vpasuite

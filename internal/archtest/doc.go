// Package archtest holds tests only: the import law of the house, each rule with its reason.
//
// Run it with -count=1: the test cache cannot see what the go command that these tests start has read.
package archtest

package cosign

import "time"

// Stamped is when authorities of a trusted root stamped a signature.
func Stamped(trustedRoot, signature, stamp []byte) ([]time.Time, error) {
	tr, err := parseRoot(trustedRoot)
	return trust{root: tr}.stamped(signature, [][]byte{stamp}), err
}

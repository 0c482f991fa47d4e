// Package signing makes signatures, and whom to trust for them: for tests, for the lab, and for nothing else. What it signs with
// is made on the spot; no shipped program imports it.
//
// The Notary half is shaped after AWS Signer: a chain of four P-384 certificates with the subjects that AWS's have, a leaf
// that lives for days and belongs to the service rather than to the publisher, ARNs of profile and job as signed attributes,
// and the API that says what was revoked (Revocations). The cosign half makes what cosign writes, in its old form and its new.
package signing

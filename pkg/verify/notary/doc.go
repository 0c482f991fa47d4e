// Package notary checks Notary Project signatures: those of AWS Signer (aws-signer) and those of certificate authorities that the
// policy names (notation).
//
// The mathematics, the envelopes and the certificate chains are notation-go's and notation-core-go's. What is decided here is what
// they leave to configuration, where each of their looser settings lets something in that must stay out:
//
//   - The trust policy is made in code, strict, one for each signature and requirement. There is no level to choose.
//   - All that can be known from the envelope alone is checked before anybody is asked anything: that it is about the artifact,
//     that its chain ends in a trusted root, who signed it, under which scheme, and that nothing in it must be understood
//     that is not. Junk costs no request, and no URL of a certificate is followed that nobody trusted vouches for.
//   - AWS Signer's plugin runs in this process. No other name that a signature may carry finds a plugin.
//   - What is revoked is refused in every mode but off, where nobody is asked. What cannot be found out is never mistaken for it, nor
//     for its opposite.
package notary

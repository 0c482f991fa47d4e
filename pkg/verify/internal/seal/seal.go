// Package seal holds the key to ref.Admit. Go lets nobody outside pkg/verify import it, so that a reference is admitted by
// verification or not at all.
package seal

// Token is what ref.Admit asks for.
type Token struct{}

// Package seal holds the key to ref.Admit. Go lets nobody outside pkg/verify import it, so that a reference is admitted by
// verification or not at all.
package seal

// Token is what ref.Admit asks for. Its field has no name that others could write: a struct without fields can be passed
// as struct{}{} by whoever cannot name its type. The zero value, which generic code gets hold of by inference, opens
// nothing.
type Token struct{ granted bool }

// Grant makes a token that opens.
func Grant() Token { return Token{granted: true} }

// Granted says whether t opens.
func (t Token) Granted() bool { return t.granted }

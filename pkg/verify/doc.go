// Package verify says whether images are signed by whom the user trusts, before anything runs and of what runs already.
package verify

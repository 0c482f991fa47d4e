// Command nopsctl installs the nOps Kubernetes agent stack, proves that data flows, and looks after it.
package main

import (
	"os"

	"github.com/nopsctl/nopsctl/internal/cli"
)

func main() { os.Exit(cli.Main()) }

// Command nopsctl installs the nOps Kubernetes agent stack, proves that data flows, and looks after it.
package main

import (
	"os"

	"github.com/nopsctl/nopsctl/internal/cli"
	_ "github.com/nopsctl/nopsctl/internal/gcpace" // before the packages that fill the heap
)

func main() { os.Exit(cli.Main()) }

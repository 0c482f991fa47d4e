// Package platform runs the nOps side of a lab: the platform's API, the metrics gate with its stores, and an OCI registry,
// under the names of the real ones.
//
//	:443 by TLS server name      app.nops.io                            → the platform, internal/platform in a process of its own
//	                             aps-workspaces.<region>.amazonaws.com  → the metrics gate → one VictoriaMetrics per customer
//	                             public.ecr.aws                         → the registry, pull only, with its anonymous tokens
//	plain HTTP, loopback         api             the platform
//	                             metrics         PromQL API of the first customer's workspace, read only, unsigned
//	                             registry        the registry, push and pull
//	                             registry-nodes  the registry, pull only, for container runtimes; fails separately
//	                             proxy           HTTP CONNECT to the three names and to nothing else
//
// # For who composes a lab
//
// The caller's binary dispatches its hidden subcommand to Main, since this package starts that binary again:
//
//	if len(os.Args) > 1 && os.Args[1] == platform.Subcommand { exit(platform.Main(ctx, os.Args[2:], os.Stderr)) }
//
// A lab starts one process, whose options cross the exec as a file that holds no credential:
//
//	o := platform.Options{StateDir: …, CacheDir: …, Bin: …, Listen: platform.Inside(cluster.NodeIP)}
//	file, err := o.Write()                                    // in StateDir
//	process{Path: exe, Args: []string{platform.Subcommand, "serve", file}}
//	platform.Hosts(o.Region)                                  // names that must lead to Listen's TLS address
//	platform.Bundle(o, path)                                  // writes the certificates that everything in the lab trusts
//
// and then speaks to it through a socket in StateDir, from whatever network namespace:
//
//	c := platform.Control{StateDir: …}
//	info, err := c.WaitReady(ctx)                             // addresses, API keys, faults, counters
//	err := c.Fault(ctx, "metrics", "down")                    // see Faults
//
// Forwards of a lab lead to the addresses of Listen: API, Metrics, Registry, Proxy.
//
// Without Kubernetes, Run with Local() serves the same on ports of 127.0.0.1; HTTPS_PROXY=http://<proxy address> and
// SSL_CERT_FILE=<bundle> make the real names work for any client.
//
// # State
//
// StateDir (mode 0700) holds credentials (seed.json, api.json), the platform's database, the metrics and the control socket;
// it survives a restart of the process. CacheDir is shared by all labs of the machine: certificate authority and registry.
//
// Customers are 4242 and 4343, each with an install key, an admin key, a workspace and a key pair, all random per lab.
package platform

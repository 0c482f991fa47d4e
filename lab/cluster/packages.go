package cluster

import "os"

// packages maps each Debian package that the lab needs to a file it brings.
func packages() []struct{ name, file string } {
	return []struct{ name, file string }{
		{"containerd", "/usr/bin/containerd"},
		{"runc", "/usr/sbin/runc"},
		{"containernetworking-plugins", "/usr/lib/cni/bridge"},
		{"iptables", "/usr/sbin/iptables"},
		{"nftables", "/usr/sbin/nft"},
		{"iproute2", "/usr/sbin/ip"},
		{"conntrack", "/usr/sbin/conntrack"},
		{"ca-certificates", "/etc/ssl/certs/ca-certificates.crt"},
	}
}

// MissingPackages names the Debian packages that must be installed before a lab can start.
func MissingPackages() []string {
	var missing []string
	for _, p := range packages() {
		if _, err := os.Stat(p.file); err != nil {
			missing = append(missing, p.name)
		}
	}
	return missing
}

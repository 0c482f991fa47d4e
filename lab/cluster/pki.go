package cluster

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"
)

// authority signs the certificates of one cluster.
type authority struct {
	cert *x509.Certificate
	key  crypto.Signer
	pem  []byte
}

// certificate asks for one: a client when Organization is set, a server when it has hosts.
type certificate struct {
	file         string // without extension, below the pki directory
	commonName   string
	organization []string
	hosts        []string
}

// writePKI makes new authorities and every key pair the cluster needs. A lab's certificates live as long as the lab: two
// years, so that a demo that stays up does not rot.
func writePKI(dir string, now time.Time) (*authority, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the directory of certificates: %w", err)
	}
	ca, err := newAuthority("nopsctl-lab-ca", now)
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(dir, "ca.crt"), ca.pem, 0o600); err != nil {
		return nil, fmt.Errorf("write the cluster's CA: %w", err)
	}
	if err := writeKey(filepath.Join(dir, "ca.key"), ca.key); err != nil {
		return nil, err
	}
	local := []string{"localhost", "127.0.0.1"}
	for _, c := range []certificate{
		{"apiserver", "kube-apiserver", nil, append(local, NodeIP, apiServiceIP, "kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc."+clusterDomain)},
		{"kubelet-server", "system:node:" + NodeName, []string{"system:nodes"}, append(local, NodeIP, NodeName)},
		{"etcd", "etcd", nil, local},
		{"admin", "lab-admin", []string{"system:masters"}, nil},
		{"kubelet", "system:node:" + NodeName, []string{"system:nodes"}, nil},
		{"controller-manager", "system:kube-controller-manager", nil, nil},
		{"scheduler", "system:kube-scheduler", nil, nil},
		{"kube-proxy", "system:kube-proxy", nil, nil},
		{"coredns", "system:coredns", nil, nil},
		{"karpenter", "karpenter", []string{"system:masters"}, nil},
		{"kwok", "kwok", []string{"system:masters"}, nil},
		{"upstream-vpa-recommender", "upstream-vpa-recommender", []string{"system:masters"}, nil},
		{"upstream-vpa-updater", "upstream-vpa-updater", []string{"system:masters"}, nil},
		{"upstream-vpa-admission-controller", "upstream-vpa-admission-controller", []string{"system:masters"}, nil},
		{"metrics-server", "metrics-server", []string{"system:masters"}, nil},
		{"upstream-vpa-webhook", "upstream-vpa-webhook", nil, append(local, NodeIP)},
		{"apiserver-kubelet-client", "kube-apiserver-kubelet-client", []string{"system:masters"}, nil},
	} {
		if err := ca.issue(dir, c, now); err != nil {
			return nil, err
		}
	}
	// Who holds a certificate of this one may speak for any user: it signs nothing else.
	front, err := newAuthority("nopsctl-lab-front-proxy-ca", now)
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(dir, "front-proxy-ca.crt"), front.pem, 0o600); err != nil {
		return nil, fmt.Errorf("write the front proxy's CA: %w", err)
	}
	if err := front.issue(dir, certificate{"front-proxy-client", "front-proxy-client", nil, nil}, now); err != nil {
		return nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make the service-account key: %w", err)
	}
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, fmt.Errorf("make the service-account key: %w", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "sa.pub"), pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public}), 0o600); err != nil {
		return nil, fmt.Errorf("write the service-account key: %w", err)
	}
	return ca, writeKey(filepath.Join(dir, "sa.key"), key)
}

func newAuthority(name string, now time.Time) (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make the key of %s: %w", name, err)
	}
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, NotBefore: now.Add(-time.Hour), NotAfter: now.AddDate(2, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("make the certificate of %s: %w", name, err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("read back the certificate of %s: %w", name, err)
	}
	return &authority{cert, key, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})}, nil
}

func (a *authority) issue(dir string, c certificate, now time.Time) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("make the key of %s: %w", c.file, err)
	}
	template := &x509.Certificate{
		Subject:   pkix.Name{CommonName: c.commonName, Organization: c.organization},
		NotBefore: now.Add(-time.Hour), NotAfter: now.AddDate(2, 0, 0), KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	for _, host := range c.hosts {
		template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
		if ip := net.ParseIP(host); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, host)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		return fmt.Errorf("make the certificate of %s: %w", c.file, err)
	}
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	if err := os.WriteFile(filepath.Join(dir, c.file+".crt"), block, 0o600); err != nil {
		return fmt.Errorf("write the certificate of %s: %w", c.file, err)
	}
	return writeKey(filepath.Join(dir, c.file+".key"), key)
}

func writeKey(path string, key crypto.Signer) error {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return fmt.Errorf("encode %s: %w", filepath.Base(path), err)
	}
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600); err != nil {
		return fmt.Errorf("write a private key: %w", err)
	}
	return nil
}

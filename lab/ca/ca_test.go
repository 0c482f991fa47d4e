package ca_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/nopsctl/nopsctl/lab/ca"
)

func TestAuthorityIsKept(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "ca")
	now := time.Now()
	var wg sync.WaitGroup
	pems := make([][]byte, 8)
	for i := range pems {
		wg.Go(func() {
			a, err := ca.Open(dir, now)
			if err != nil {
				t.Error(err)
				return
			}
			pems[i] = a.PEM()
		})
	}
	wg.Wait()
	for i := range pems {
		if !bytes.Equal(pems[i], pems[0]) {
			t.Fatal("labs that started together hold different authorities")
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Fatalf("the directory holds %d files, %v; want the authority alone", len(entries), err)
	}
	info, err := entries[0].Info()
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 {
		t.Errorf("the key's file has mode %v, others may read it", info.Mode())
	}
	renewed, err := ca.Open(dir, now.AddDate(10, 0, -1))
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(renewed.PEM(), pems[0]) {
		t.Error("an authority in its last day was kept: what it signs would outlive it")
	}
}

func TestDamagedAuthorityIsNamed(t *testing.T) {
	dir := t.TempDir()
	if _, err := ca.Open(dir, time.Now()); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "authority.pem")
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	other, err := ca.Open(t.TempDir(), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	_, key, found := bytes.Cut(whole, []byte("-----BEGIN PRIVATE"))
	if !found {
		t.Fatal("no key in the file")
	}
	for name, text := range map[string][]byte{
		"empty":               nil,
		"without its key":     whole[:len(whole)-len(key)-len("-----BEGIN PRIVATE")],
		"with somebody's key": append(other.PEM(), append([]byte("-----BEGIN PRIVATE"), key...)...),
	} {
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := ca.Open(dir, time.Now())
		var hint interface{ Hint() string }
		if !errors.As(err, &hint) {
			t.Errorf("%s: %v: no hint says what to do", name, err)
		}
	}
}

func TestCertificates(t *testing.T) {
	now := time.Now()
	a, err := ca.Open(t.TempDir(), now)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := a.Certificate(now, "app.nops.io", "192.168.77.1")
	if err != nil {
		t.Fatal(err)
	}
	ln, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{pair}})
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				_, _ = conn.Write([]byte("x"))
			}()
		}
	}()
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(a.PEM())
	for _, tc := range []struct {
		name, reason string
		config       *tls.Config
		want         bool
	}{
		{"a name of the certificate", "clients ask for names", &tls.Config{RootCAs: roots, ServerName: "app.nops.io"}, true},
		{"an address of the certificate", "probes ask for addresses", &tls.Config{RootCAs: roots, ServerName: "192.168.77.1"}, true},
		{"another name", "a certificate for everything would hide a wrong route", &tls.Config{RootCAs: roots, ServerName: "public.ecr.aws"}, false},
		{"another authority", "who does not trust the lab must not be fooled", &tls.Config{RootCAs: x509.NewCertPool(), ServerName: "app.nops.io"}, false},
	} {
		conn, err := tls.DialWithDialer(&net.Dialer{Timeout: 5 * time.Second}, "tcp", ln.Addr().String(), tc.config)
		if (err == nil) != tc.want {
			t.Errorf("%s: %v, want success %v: %s", tc.name, err, tc.want, tc.reason)
		}
		if conn != nil {
			conn.Close()
		}
	}
	if _, _, err := a.Issue(now); err == nil {
		t.Error("a certificate for no host was issued")
	}
}

func TestBundle(t *testing.T) {
	dir := t.TempDir()
	system, err := ca.Open(filepath.Join(dir, "system"), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	a, err := ca.Open(filepath.Join(dir, "lab"), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	roots := filepath.Join(dir, "roots.pem")
	if err := os.WriteFile(roots, bytes.TrimSuffix(system.PEM(), []byte("\n")), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name, reason string
		files        []string
		want         int
	}{
		{"first that exists", "one distribution has one of them; a missing end of line must not join two certificates", []string{filepath.Join(dir, "none"), roots, roots}, 2},
		{"none", "a machine without certificates still runs a lab", nil, 1},
	} {
		bundle, err := a.Bundle(tc.files...)
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for block, rest := pem.Decode(bundle); block != nil; block, rest = pem.Decode(rest) {
			n++
		}
		if n != tc.want || !bytes.Contains(bundle, a.PEM()) {
			t.Errorf("%s: %d certificates, want %d: %s", tc.name, n, tc.want, tc.reason)
		}
	}
}

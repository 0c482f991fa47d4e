package main

import (
	"context"
	"io"
	"net"
	"testing"
	"time"
)

// TestLate: what is said arrives as it is, the answer later than the server gave it, and the end of a connection is passed on.
func TestLate(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	server, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	go func() {
		for {
			conn, err := server.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				_, _ = io.CopyN(conn, conn, 5)
			}()
		}
	}()
	free, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at := free.Addr().String()
	_ = free.Close()
	const by = 300 * time.Millisecond
	ended := make(chan error, 1)
	go func() { ended <- late(ctx, at, server.Addr().String(), by) }()
	var conn net.Conn
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if conn, err = new(net.Dialer).DialContext(ctx, "tcp", at); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	defer conn.Close()
	began := time.Now()
	if _, err := conn.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	answer, err := io.ReadAll(conn)
	if took := time.Since(began); string(answer) != "hello" || err != nil || took < by {
		t.Errorf("the answer is %q, %v, after %s; want hello after %s or more", answer, err, took, by)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

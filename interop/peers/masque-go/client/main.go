// Command client makes a local UDP port out of a tunnel of masque-go's client.
//
// It prints the port once the tunnel is open, forwards between whoever sent to the port last and the
// target, and ends when its standard input closes. A refused tunnel is told on standard error with the
// proxy's status, exit code 1.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"sync/atomic"
	"time"

	"github.com/quic-go/masque-go"
	"github.com/quic-go/quic-go/http3"
	"github.com/yosida95/uritemplate/v3"
)

const deadline = 20 * time.Second

func main() {
	template := flag.String("template", "", "URI template of the proxy, RFC 9298 section 2")
	target := flag.String("target", "", "host:port behind the proxy")
	caFile := flag.String("ca", "", "whom to trust, PEM; the system's list without it")
	token := flag.String("token", "", "bearer token")
	flag.Parse()
	if err := run(*template, *target, *caFile, *token); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(rawTemplate, target, caFile, token string) error {
	template, err := uritemplate.New(rawTemplate)
	if err != nil {
		return err
	}
	trust := &tls.Config{NextProtos: []string{http3.NextProtoH3}}
	if caFile != "" {
		pem, err := os.ReadFile(caFile)
		if err != nil {
			return err
		}
		trust.RootCAs = x509.NewCertPool()
		if !trust.RootCAs.AppendCertsFromPEM(pem) {
			return errors.New("no certificate in " + caFile)
		}
	}
	// Only for the handshake: the tunnel lives until standard input closes.
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	late := time.AfterFunc(deadline, cancel)
	request, err := masque.NewRequest(ctx, template, target)
	if err != nil {
		return err
	}
	if token != "" {
		request.Header().Set("Proxy-Authorization", "Bearer "+token)
	}
	transport := masque.Transport{TLSClientConfig: trust}
	tunnel, response, err := transport.Dial(request)
	if err != nil {
		if response != nil {
			return fmt.Errorf("status %d: %w", response.StatusCode, err)
		}
		return err
	}
	late.Stop()
	defer tunnel.Close()
	local, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return err
	}
	defer local.Close()
	fmt.Println(local.LocalAddr().(*net.UDPAddr).Port)
	forward(local, tunnel)
	_, _ = io.Copy(io.Discard, os.Stdin)
	return nil
}

func forward(local *net.UDPConn, tunnel *masque.Conn) {
	var peer atomic.Pointer[net.UDPAddr]
	go func() {
		buffer := make([]byte, 65536)
		for {
			size, from, err := local.ReadFromUDP(buffer)
			if err != nil {
				return
			}
			peer.Store(from)
			// One that does not fit is lost, as with UDP.
			_, _ = tunnel.WriteTo(buffer[:size], nil)
		}
	}()
	go func() {
		buffer := make([]byte, 65536)
		for {
			size, _, err := tunnel.ReadFrom(buffer)
			if err != nil {
				return
			}
			if to := peer.Load(); to != nil {
				_, _ = local.WriteToUDP(buffer[:size], to)
			}
		}
	}()
}

// Command client opens a tunnel of connect-ip-go and carries packets by hand.
//
// Once the tunnel is open it prints one JSON line with the prefixes and routes that the proxy gave it.
// Then each line of standard input is a packet in hexadecimal to send, and each line of standard output
// a packet that came. It ends when its standard input closes. A refused tunnel is told on standard error
// with the proxy's status, exit code 1.
package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	connectip "github.com/quic-go/connect-ip-go"
	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
	"github.com/yosida95/uritemplate/v3"
)

const deadline = 20 * time.Second

func main() {
	url := flag.String("url", "", "where the proxy serves CONNECT-IP; no variables")
	caFile := flag.String("ca", "", "whom to trust, PEM")
	certFile := flag.String("cert", "", "client certificate, PEM: the library sends no other credential")
	keyFile := flag.String("key", "", "its key, PEM")
	flag.Parse()
	if err := run(*url, *caFile, *certFile, *keyFile); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(url, caFile, certFile, keyFile string) error {
	template, err := uritemplate.New(url)
	if err != nil {
		return err
	}
	trust, err := tlsConfig(caFile, certFile, keyFile)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	socket, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return err
	}
	defer socket.Close()
	address, err := proxyAddress(url)
	if err != nil {
		return err
	}
	// A first flight that holds 1,280 bytes of IPv6 and their overhead (RFC 9484 section 7.2).
	config := &quic.Config{EnableDatagrams: true, InitialPacketSize: 1350}
	connection, err := quic.Dial(ctx, socket, address, trust, config)
	if err != nil {
		return err
	}
	defer connection.CloseWithError(0, "")
	transport := &http3.Transport{EnableDatagrams: true}
	tunnel, response, err := connectip.Dial(ctx, transport.NewClientConn(connection), template)
	if err != nil {
		if response != nil {
			return fmt.Errorf("status %d: %w", response.StatusCode, err)
		}
		return err
	}
	defer tunnel.Close()
	if err := tell(ctx, tunnel); err != nil {
		return err
	}
	go receive(tunnel)
	return send(tunnel)
}

func tlsConfig(caFile, certFile, keyFile string) (*tls.Config, error) {
	trust := &tls.Config{NextProtos: []string{http3.NextProtoH3}, ServerName: "localhost"}
	pem, err := os.ReadFile(caFile)
	if err != nil {
		return nil, err
	}
	trust.RootCAs = x509.NewCertPool()
	if !trust.RootCAs.AppendCertsFromPEM(pem) {
		return nil, errors.New("no certificate in " + caFile)
	}
	if certFile != "" {
		certificate, err := tls.LoadX509KeyPair(certFile, keyFile)
		if err != nil {
			return nil, err
		}
		trust.Certificates = []tls.Certificate{certificate}
	}
	return trust, nil
}

func proxyAddress(url string) (*net.UDPAddr, error) {
	var port int
	if _, err := fmt.Sscanf(url, "https://localhost:%d/", &port); err != nil {
		return nil, fmt.Errorf("the URL is not https://localhost:PORT/…: %w", err)
	}
	return &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port}, nil
}

func tell(ctx context.Context, tunnel *connectip.Conn) error {
	prefixes, err := tunnel.LocalPrefixes(ctx)
	if err != nil {
		return fmt.Errorf("no prefixes: %w", err)
	}
	routes, err := tunnel.Routes(ctx)
	if err != nil {
		return fmt.Errorf("no routes: %w", err)
	}
	type route struct {
		First, Last netip.Addr
		Protocol    uint8
	}
	told := struct {
		Prefixes []netip.Prefix
		Routes   []route
	}{Prefixes: prefixes}
	for _, found := range routes {
		told.Routes = append(told.Routes, route{found.StartIP, found.EndIP, found.IPProtocol})
	}
	return json.NewEncoder(os.Stdout).Encode(told)
}

func receive(tunnel *connectip.Conn) {
	buffer := make([]byte, 65536)
	for {
		size, err := tunnel.ReadPacket(buffer)
		if err != nil {
			fmt.Fprintln(os.Stderr, "the tunnel ended:", err)
			return
		}
		fmt.Println(hex.EncodeToString(buffer[:size]))
	}
}

func send(tunnel *connectip.Conn) error {
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		packet, err := hex.DecodeString(lines.Text())
		if err != nil {
			return err
		}
		icmp, err := tunnel.WritePacket(packet)
		if err != nil {
			return err
		}
		if icmp != nil {
			fmt.Println(hex.EncodeToString(icmp))
		}
	}
	return lines.Err()
}

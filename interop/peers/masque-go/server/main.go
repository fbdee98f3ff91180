// Command server is a CONNECT-UDP proxy of masque-go: what the relay is measured and tried against.
//
// It prints its UDP port and serves until its standard input closes. Like the library's own example
// it asks nobody who they are.
package main

import (
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"

	"github.com/quic-go/masque-go"
	"github.com/quic-go/quic-go/http3"
	"github.com/yosida95/uritemplate/v3"
)

const path = "/.well-known/masque/udp/{target_host}/{target_port}/"

func main() {
	listen := flag.String("listen", "127.0.0.1:0", "UDP address to listen on")
	certFile := flag.String("cert", "", "certificate chain, PEM")
	keyFile := flag.String("key", "", "private key, PEM")
	flag.Parse()
	if err := run(*listen, *certFile, *keyFile); err != nil {
		log.Fatal(err)
	}
}

func run(listen, certFile, keyFile string) error {
	certificate, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		return err
	}
	address, err := net.ResolveUDPAddr("udp", listen)
	if err != nil {
		return err
	}
	socket, err := net.ListenUDP("udp", address)
	if err != nil {
		return err
	}
	defer socket.Close()
	port := socket.LocalAddr().(*net.UDPAddr).Port
	template, err := uritemplate.New(fmt.Sprintf("https://localhost:%d%s", port, path))
	if err != nil {
		return err
	}
	var proxy masque.Proxy
	routes := http.NewServeMux()
	routes.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
		request, err := masque.ParseProxyRequest(r, template)
		if err != nil {
			status := http.StatusBadRequest
			var fault *masque.ProxyRequestParseError
			if errors.As(err, &fault) {
				status = fault.HTTPStatus
			}
			w.WriteHeader(status)
			return
		}
		_ = proxy.Proxy(w, request)
	})
	server := http3.Server{
		Handler:         routes,
		EnableDatagrams: true,
		TLSConfig: http3.ConfigureTLSConfig(
			&tls.Config{Certificates: []tls.Certificate{certificate}},
		),
	}
	// Its own log lines per tunnel are no part of what is measured.
	log.SetOutput(io.Discard)
	fmt.Println(port)
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		_ = server.Close()
	}()
	if err := server.Serve(socket); err != nil && !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// Command server is a DERP server made of derper's own parts, for the mesh of one region.
//
//	server -cert cert.pem -key key.pem -node derp.key -mesh KEY [-with URL -ca ca.pem]
//
// It prints where it listens, and then what happens to its connection to the server at URL. What
// it does with that one is what cmd/derper/mesh.go does with each of --mesh-with.
package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"

	"tailscale.com/derp"
	"tailscale.com/derp/derphttp"
	"tailscale.com/derp/derpserver"
	"tailscale.com/net/netmon"
	"tailscale.com/types/key"
)

var (
	listen   = flag.String("listen", "127.0.0.1:0", "where to listen")
	certFile = flag.String("cert", "", "PEM file of the certificate chain")
	keyFile  = flag.String("key", "", "PEM file of its key")
	nodeFile = flag.String("node", "", "file with the server's private node key")
	meshKey  = flag.String("mesh", "", "the mesh key, 64 hexadecimal digits")
	with     = flag.String("with", "", "URL of another server of the region")
	caFile   = flag.String("ca", "", "PEM file of that server's CA")
)

func must[T any](value T, err error) T {
	if err != nil {
		log.Fatal(err)
	}
	return value
}

func joinMesh(s *derpserver.Server, url string) {
	c := must(derphttp.NewClient(s.PrivateKey(), url, log.Printf, netmon.NewStatic()))
	c.MeshKey = s.MeshKey()
	c.WatchConnectionChanges = true
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(must(os.ReadFile(*caFile)))
	c.TLSConfig = &tls.Config{RootCAs: pool}
	add := func(m derp.PeerPresentMessage) {
		s.AddPacketForwarder(m.Key, c)
		fmt.Println("present", m.Key.UntypedHexString())
	}
	remove := func(m derp.PeerGoneMessage) {
		s.RemovePacketForwarder(m.Peer, c)
		fmt.Println("gone", m.Peer.UntypedHexString())
	}
	failed := func(err error) { fmt.Println("failed", err) }
	c.RunWatchConnectionLoop(context.Background(), s.PublicKey(), log.Printf, add, remove, failed)
	fmt.Println("that server is this one")
}

func main() {
	flag.Parse()
	var node key.NodePrivate
	if err := node.UnmarshalText(bytes.TrimSpace(must(os.ReadFile(*nodeFile)))); err != nil {
		log.Fatal(err)
	}
	s := derpserver.New(node, log.Printf)
	if err := s.SetMeshKey(*meshKey); err != nil {
		log.Fatal(err)
	}
	chain := must(tls.LoadX509KeyPair(*certFile, *keyFile))
	config := &tls.Config{
		NextProtos: []string{"http/1.1"},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			copied := chain // because the server's own certificate is added to it
			return &copied, nil
		},
	}
	s.ModifyTLSConfigToAddMetaCert(config)
	mux := http.NewServeMux()
	mux.Handle("/derp", derpserver.Handler(s))
	listener := must(net.Listen("tcp", *listen))
	fmt.Printf("https://%s/derp\n", listener.Addr())
	if *with != "" {
		go joinMesh(s, *with)
	}
	log.Fatal((&http.Server{Handler: mux}).Serve(tls.NewListener(listener, config)))
}

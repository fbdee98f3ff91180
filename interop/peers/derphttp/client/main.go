// Command derphttp lets Tailscale's own DERP client talk through a relay.
//
//	derphttp -url https://127.0.0.1:4433/derp -ca ca.pem -keys alice.key,bob.key WHAT
//
// WHAT is one of
//
//	exchange  two clients send each other packets, and each pings the relay
//	watch     a third client with the mesh key hears of the two, and forwards a packet
//	close     it has one of them thrown out
//	refused   the first client is not admitted
//	restart   prints "ready", then waits for the relay to say that it restarts
//	gone      a client hears that the other one has gone, and that a third was never there
package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"strings"
	"time"

	"tailscale.com/derp"
	"tailscale.com/derp/derphttp"
	"tailscale.com/net/netmon"
	"tailscale.com/types/key"
)

const deadline = 30 * time.Second

var (
	url     = flag.String("url", "", "of the relay's DERP")
	caFile  = flag.String("ca", "", "PEM file of the relay's CA")
	keys    = flag.String("keys", "", "files with private node keys, separated by commas")
	meshKey = flag.String("mesh", "", "the mesh key, 64 hexadecimal digits")
	verbose = flag.Bool("v", false, "log what the library logs")
)

func logf(format string, args ...any) {
	if *verbose {
		log.Printf(format, args...)
	}
}

func must[T any](value T, err error) T {
	if err != nil {
		log.Fatal(err)
	}
	return value
}

func loadKeys() []key.NodePrivate {
	var loaded []key.NodePrivate
	for _, name := range strings.Split(*keys, ",") {
		var k key.NodePrivate
		text := must(os.ReadFile(name))
		if err := k.UnmarshalText(bytes.TrimSpace(text)); err != nil {
			log.Fatal(err)
		}
		loaded = append(loaded, k)
	}
	return loaded
}

func newClient(k key.NodePrivate) *derphttp.Client {
	c := must(derphttp.NewClient(k, *url, logf, netmon.NewStatic()))
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(must(os.ReadFile(*caFile)))
	c.TLSConfig = &tls.Config{RootCAs: pool}
	return c
}

// connect returns a client that the relay has admitted, and how it came in.
func connect(k key.NodePrivate) *derphttp.Client {
	c := newClient(k)
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	if err := c.Connect(ctx); err != nil {
		log.Fatal(err)
	}
	receive[derp.ServerInfoMessage](c)
	return c
}

// receive returns the next message of a kind; others are passed over.
func receive[M derp.ReceivedMessage](c *derphttp.Client) M {
	type result struct {
		message derp.ReceivedMessage
		err     error
	}
	for {
		got := make(chan result, 1)
		go func() {
			m, err := c.Recv()
			got <- result{m, err}
		}()
		select {
		case r := <-got:
			if r.err != nil {
				log.Fatal(r.err)
			}
			if m, ok := r.message.(M); ok {
				return m
			}
		case <-time.After(deadline):
			log.Fatalf("no %T in time", *new(M))
		}
	}
}

func expectPacket(c *derphttp.Client, from key.NodePublic, want []byte) {
	p := receive[derp.ReceivedPacket](c)
	if p.Source != from || !bytes.Equal(p.Data, want) {
		log.Fatalf("got %d bytes from %v, want %d from %v", len(p.Data), p.Source, len(want), from)
	}
}

func ping(c *derphttp.Client) {
	data := [8]byte{'p', 'i', 'n', 'g', 1, 2, 3, 4}
	if err := c.SendPing(data); err != nil {
		log.Fatal(err)
	}
	if got := receive[derp.PongMessage](c); [8]byte(got) != data {
		log.Fatal("a pong of something else")
	}
}

func exchange(k []key.NodePrivate) {
	alice, bob := connect(k[0]), connect(k[1])
	for _, size := range []int{0, 1, 32, 1200, 1420, 9000, 65536} {
		packet := bytes.Repeat([]byte{byte(size)}, size)
		if err := alice.Send(k[1].Public(), packet); err != nil {
			log.Fatal(err)
		}
		expectPacket(bob, k[0].Public(), packet)
		if err := bob.Send(k[0].Public(), packet); err != nil {
			log.Fatal(err)
		}
		expectPacket(alice, k[1].Public(), packet)
	}
	ping(alice)
	alice.NotePreferred(true)
	ping(bob)
	fmt.Println("exchanged; server", alice.ServerPublicKey().UntypedHexString())
}

func meshClient(k key.NodePrivate) *derphttp.Client {
	c := newClient(k)
	c.MeshKey = must(key.ParseDERPMesh(*meshKey))
	c.WatchConnectionChanges = true
	if err := c.Connect(context.Background()); err != nil {
		log.Fatal(err)
	}
	return c
}

func watch(k []key.NodePrivate) {
	alice := connect(k[0])
	mesh := meshClient(k[2])
	defer mesh.Close()
	seen := map[key.NodePublic]derp.PeerPresentFlags{}
	for len(seen) < 2 {
		m := receive[derp.PeerPresentMessage](mesh)
		seen[m.Key] = m.Flags
	}
	if seen[k[0].Public()] != derp.PeerPresentIsRegular || seen[k[2].Public()] != derp.PeerPresentIsMeshPeer {
		log.Fatalf("flags %v", seen)
	}
	bob := connect(k[1])
	if m := receive[derp.PeerPresentMessage](mesh); m.Key != k[1].Public() || !m.IPPort.IsValid() {
		log.Fatalf("%v came", m)
	}
	if err := mesh.ForwardPacket(k[1].Public(), k[0].Public(), []byte("forwarded")); err != nil {
		log.Fatal(err)
	}
	expectPacket(alice, k[1].Public(), []byte("forwarded"))
	bob.Close()
	if m := receive[derp.PeerGoneMessage](mesh); m.Peer != k[1].Public() || m.Reason != derp.PeerGoneReasonDisconnected {
		log.Fatalf("%v went", m)
	}
	fmt.Println("watched and forwarded")
}

func closePeer(k []key.NodePrivate) {
	alice, mesh := connect(k[0]), meshClient(k[2])
	if err := mesh.ClosePeer(k[0].Public()); err != nil {
		log.Fatal(err)
	}
	for {
		m := receive[derp.PeerGoneMessage](mesh)
		if m.Peer == k[0].Public() {
			break
		}
	}
	if _, err := alice.Recv(); err == nil {
		log.Fatal("alice is still there")
	}
	fmt.Println("closed")
}

func refused(k []key.NodePrivate) {
	c := newClient(k[0])
	if err := c.Connect(context.Background()); err != nil {
		log.Fatal(err)
	}
	var health string
	for {
		m, err := c.Recv()
		if err != nil {
			fmt.Println("refused:", health)
			return
		}
		switch m := m.(type) {
		case derp.HealthMessage:
			health = m.Problem
		case derp.ServerInfoMessage:
			log.Fatal(errors.New("admitted"))
		}
	}
}

func restart(k []key.NodePrivate) {
	c := connect(k[0])
	fmt.Println("ready")
	m := receive[derp.ServerRestartingMessage](c)
	fmt.Println("restarting, try for", m.TryFor)
}

func gone(k []key.NodePrivate) {
	alice, bob := connect(k[0]), connect(k[1])
	if err := alice.Send(k[1].Public(), []byte("hello")); err != nil {
		log.Fatal(err)
	}
	expectPacket(bob, k[0].Public(), []byte("hello"))
	bob.Close()
	if m := receive[derp.PeerGoneMessage](alice); m.Peer != k[1].Public() || m.Reason != derp.PeerGoneReasonDisconnected {
		log.Fatalf("%v", m)
	}
	never := key.NewNode().Public()
	if err := alice.Send(never, []byte("hello")); err != nil {
		log.Fatal(err)
	}
	if m := receive[derp.PeerGoneMessage](alice); m.Peer != never || m.Reason != derp.PeerGoneReasonNotHere {
		log.Fatalf("%v", m)
	}
	fmt.Println("gone and not here")
}

func main() {
	flag.Parse()
	trials := map[string]func([]key.NodePrivate){
		"exchange": exchange, "watch": watch, "close": closePeer,
		"refused": refused, "restart": restart, "gone": gone,
	}
	trial := trials[flag.Arg(0)]
	if trial == nil {
		log.Fatalf("%q is none of the trials", flag.Arg(0))
	}
	trial(loadKeys())
}

// A TURN client on pion/turn: allocates, reaches a UDP echo server, says what came back.
//
//	pion-turn -server 127.0.0.1:3478 -user U -password P -peer 127.0.0.1:9999 [-transport tcp|tls] [-ca ca.pem]
package main

import (
	"crypto/tls"
	"crypto/x509"
	"flag"
	"fmt"
	"log"
	"net"
	"os"
	"time"

	"github.com/pion/logging"
	"github.com/pion/turn/v4"
)

func main() {
	server := flag.String("server", "", "HOST:PORT of the relay")
	user := flag.String("user", "", "user name")
	password := flag.String("password", "", "password")
	peer := flag.String("peer", "", "HOST:PORT of a UDP echo server")
	transport := flag.String("transport", "udp", "udp, tcp or tls")
	ca := flag.String("ca", "", "PEM file with the CA of the relay, for tls")
	count := flag.Int("count", 20, "datagrams to send")
	flag.Parse()

	conn, err := dial(*transport, *server, *ca)
	check(err)
	client, err := turn.NewClient(&turn.ClientConfig{
		STUNServerAddr: *server,
		TURNServerAddr: *server,
		Conn:           conn,
		Username:       *user,
		Password:       *password,
		LoggerFactory:  logging.NewDefaultLoggerFactory(),
	})
	check(err)
	defer client.Close()
	check(client.Listen())
	mapped, err := client.SendBindingRequest()
	check(err)
	relayed, err := client.Allocate()
	check(err)
	defer relayed.Close()
	target, err := net.ResolveUDPAddr("udp", *peer)
	check(err)
	buffer := make([]byte, 2048)
	for i := 0; i < *count; i++ {
		sent := fmt.Sprintf("hello %d", i)
		_, err = relayed.WriteTo([]byte(sent), target)
		check(err)
		check(relayed.SetReadDeadline(time.Now().Add(10 * time.Second)))
		n, _, err := relayed.ReadFrom(buffer)
		check(err)
		if string(buffer[:n]) != sent {
			log.Fatalf("sent %q, received %q", sent, buffer[:n])
		}
	}
	fmt.Printf("mapped %s relayed %s received %d\n", mapped, relayed.LocalAddr(), *count)
}

func dial(transport, server, ca string) (net.PacketConn, error) {
	switch transport {
	case "udp":
		return net.ListenPacket("udp", "0.0.0.0:0")
	case "tcp":
		conn, err := net.Dial("tcp", server)
		if err != nil {
			return nil, err
		}
		return turn.NewSTUNConn(conn), nil
	default:
		pem, err := os.ReadFile(ca)
		if err != nil {
			return nil, err
		}
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM(pem)
		conn, err := tls.Dial("tcp", server, &tls.Config{RootCAs: roots, NextProtos: []string{"stun.turn"}})
		if err != nil {
			return nil, err
		}
		return turn.NewSTUNConn(conn), nil
	}
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

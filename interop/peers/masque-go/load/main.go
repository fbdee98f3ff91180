// Command load is the thin half of the benchmark's generator: many connections of masque-go's client,
// each with one tunnel and a small window. It prints one JSON object.
//
// The datagrams are those of tests/bench/messages.py. A client in Python would cost more per thin
// connection than the relay that it is to measure.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/quic-go/masque-go"
	"github.com/quic-go/quic-go/http3"
	"github.com/yosida95/uritemplate/v3"
)

const (
	headBytes = 17 // kind, flow, sequence, port of acknowledgements, size, window
	warmUp    = 0.25
	stall     = 20 * time.Millisecond
	clockTick = 100 // USER_HZ of every Linux that Go runs on
)

// flow is one tunnel and how far it is; the counts are the uplink's or the downlink's.
type flow struct {
	number   uint16
	tunnel   *masque.Conn
	sent     atomic.Uint64
	acked    atomic.Uint64
	received atomic.Uint64
}

type load struct {
	side   *net.UDPConn
	target *net.UDPAddr
	base   uint16
	size   int
	window uint64
	flows  []*flow
}

type snapshot struct {
	at             time.Time
	cpu            float64
	received, sent uint64
}

func main() {
	way := flag.String("way", "uplink", "uplink or downlink")
	template := flag.String("template", "", "URI template of the proxy")
	target := flag.String("target", "", "host:port of tests/bench/target.py")
	caFile := flag.String("ca", "", "whom to trust, PEM")
	token := flag.String("token", "", "bearer token")
	pid := flag.Int("pid", 0, "whose CPU time to measure")
	connections := flag.Int("connections", 50, "each with one tunnel")
	window := flag.Uint64("window", 1, "datagrams under way on each")
	size := flag.Int("size", 1200, "bytes of UDP payload")
	seconds := flag.Float64("seconds", 1.5, "how long to measure")
	flag.Parse()
	result, err := run(*way, *template, *target, *caFile, *token, *pid, *connections, *window, *size, *seconds)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	_ = json.NewEncoder(os.Stdout).Encode(result)
}

func run(
	way, rawTemplate, target, caFile, token string, pid, connections int, window uint64, size int, seconds float64,
) (map[string]float64, error) {
	address, err := net.ResolveUDPAddr("udp", target)
	if err != nil {
		return nil, err
	}
	side, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return nil, err
	}
	defer side.Close()
	// Flow numbers differ between generators that use one target at the same time.
	l := &load{side: side, target: address, base: uint16(os.Getpid()%600) * 100, size: size, window: window}
	defer l.close()
	if err := l.open(rawTemplate, target, caFile, token, connections); err != nil {
		return nil, err
	}
	if way == "uplink" {
		go l.serveAcks()
		for _, f := range l.flows {
			l.fill(f)
		}
		go l.forgive()
	} else {
		for _, f := range l.flows {
			go l.receive(f)
			_, _ = f.tunnel.WriteTo(l.message('D', f, 0, uint16(size), uint16(window)), nil)
		}
	}
	time.Sleep(time.Duration(seconds * warmUp * float64(time.Second)))
	before, err := l.snapshot(pid)
	if err != nil {
		return nil, err
	}
	time.Sleep(time.Duration(seconds * float64(time.Second)))
	after, err := l.snapshot(pid)
	if err != nil {
		return nil, err
	}
	if way != "uplink" {
		for _, f := range l.flows {
			_, _ = side.WriteToUDP(l.message('S', f, 0, 0, 0), address)
		}
	}
	return figures(before, after)
}

func figures(before, after snapshot) (map[string]float64, error) {
	wall := after.at.Sub(before.at).Seconds()
	received, sent := float64(after.received-before.received), float64(after.sent-before.sent)
	cpu := after.cpu - before.cpu
	if received == 0 {
		return nil, errors.New("nothing came through")
	}
	result := map[string]float64{
		"datagrams": received, "wall_s": wall, "cpu_s": cpu, "lost_part": 0,
		"datagrams_per_s": received / wall, "datagrams_per_cpu_s": 0,
	}
	if sent > received {
		result["lost_part"] = 1 - received/sent
	}
	if cpu > 0 {
		result["datagrams_per_cpu_s"] = received / cpu
	}
	return result, nil
}

func (l *load) open(rawTemplate, target, caFile, token string, connections int) error {
	template, err := uritemplate.New(rawTemplate)
	if err != nil {
		return err
	}
	pem, err := os.ReadFile(caFile)
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	transport := masque.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, NextProtos: []string{http3.NextProtoH3}}}
	for index := range connections {
		request, err := masque.NewRequest(context.Background(), template, target)
		if err != nil {
			return err
		}
		if token != "" {
			request.Header().Set("Proxy-Authorization", "Bearer "+token)
		}
		tunnel, _, err := transport.Dial(request)
		if err != nil {
			return err
		}
		l.flows = append(l.flows, &flow{number: l.base + uint16(index), tunnel: tunnel})
	}
	return nil
}

// close tells the proxy, which would keep the tunnels for its idle timeout otherwise.
func (l *load) close() {
	for _, f := range l.flows {
		_ = f.tunnel.Close()
	}
}

func (l *load) message(kind byte, f *flow, sequence uint64, size, window uint16) []byte {
	data := make([]byte, headBytes)
	data[0] = kind
	binary.BigEndian.PutUint16(data[1:], f.number)
	binary.BigEndian.PutUint64(data[3:], sequence)
	binary.BigEndian.PutUint16(data[11:], uint16(l.side.LocalAddr().(*net.UDPAddr).Port))
	binary.BigEndian.PutUint16(data[13:], size)
	binary.BigEndian.PutUint16(data[15:], window)
	return data
}

// fill sends what the window allows.
func (l *load) fill(f *flow) {
	for f.sent.Load()-f.acked.Load() < l.window {
		data := append(l.message('U', f, f.sent.Load(), 0, 0), make([]byte, l.size-headBytes)...)
		f.sent.Add(1)
		_, _ = f.tunnel.WriteTo(data, nil)
	}
}

func (l *load) serveAcks() {
	buffer := make([]byte, 100)
	for {
		size, err := l.side.Read(buffer)
		if err != nil {
			return
		}
		index := int(binary.BigEndian.Uint16(buffer[1:])) - int(l.base)
		if size < headBytes+8 || buffer[0] != 'A' || index < 0 || index >= len(l.flows) {
			continue
		}
		f := l.flows[index]
		if sequence := binary.BigEndian.Uint64(buffer[3:]); sequence > f.acked.Load() {
			f.acked.Store(sequence)
		}
		f.received.Store(binary.BigEndian.Uint64(buffer[headBytes:]))
		l.fill(f)
	}
}

// forgive counts everything as lost where nothing moved. A datagram too many does no harm.
func (l *load) forgive() {
	before := make([]uint64, len(l.flows))
	for range time.Tick(stall) {
		for index, f := range l.flows {
			acked := f.acked.Load()
			if acked == before[index] && acked < f.sent.Load() {
				f.acked.Store(f.sent.Load())
				l.fill(f)
			}
			before[index] = f.acked.Load()
		}
	}
}

func (l *load) receive(f *flow) {
	buffer := make([]byte, 2048)
	for {
		size, _, err := f.tunnel.ReadFrom(buffer)
		if err != nil {
			return
		}
		if size < headBytes || buffer[0] != 'd' {
			continue
		}
		f.received.Add(1)
		f.sent.Store(binary.BigEndian.Uint64(buffer[3:]) + 1)
		_, _ = l.side.WriteToUDP(l.message('A', f, f.sent.Load(), 0, 0), l.target)
	}
}

func (l *load) snapshot(pid int) (snapshot, error) {
	now := snapshot{at: time.Now()}
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return now, err
	}
	text := string(data)
	fields := strings.Fields(text[strings.LastIndex(text, ")")+1:])
	for _, field := range fields[11:13] {
		ticks, err := strconv.ParseFloat(field, 64)
		if err != nil {
			return now, err
		}
		now.cpu += ticks / clockTick
	}
	for _, f := range l.flows {
		now.received += f.received.Load()
		now.sent += f.sent.Load()
	}
	return now, nil
}

"""Owns the plain UDP forwarder: the floor under every relay in Python that does not batch.

No QUIC, no encryption, no gate: one receive and one send call per datagram, one socket per source.
Prints its port and serves until its standard input closes.
"""

import selectors
import socket
import sys

BUFFER_BYTES = 4 << 20


def serve(listener: socket.socket, target: tuple[str, int]) -> None:
    """Forward until standard input closes."""
    selector = selectors.DefaultSelector()
    selector.register(listener, selectors.EVENT_READ)
    selector.register(sys.stdin, selectors.EVENT_READ)
    upstreams: dict[tuple[str, int], socket.socket] = {}
    while True:
        for key, _ in selector.select():
            if key.fileobj is sys.stdin:
                return
            for _ in range(64):
                try:
                    if key.data is not None:
                        listener.sendto(key.fileobj.recv(65_536), key.data)  # type: ignore[union-attr]  # a socket
                        continue
                    data, source = listener.recvfrom(65_536)
                except BlockingIOError:
                    break
                upstream = upstreams.get(source)
                if upstream is None:
                    upstream = upstreams[source] = socket.socket(type=socket.SOCK_DGRAM)
                    upstream.setblocking(False)
                    enlarge(upstream)
                    upstream.connect(target)
                    selector.register(upstream, selectors.EVENT_READ, source)
                upstream.send(data)


def enlarge(udp_socket: socket.socket) -> None:
    """Ask for large buffers: it shall be measured forwarding, not dropping."""
    for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
        udp_socket.setsockopt(socket.SOL_SOCKET, option, BUFFER_BYTES)


def main() -> None:
    """Run the process: forward to 127.0.0.1 and the port given."""
    with socket.socket(type=socket.SOCK_DGRAM) as listener:
        listener.setblocking(False)
        enlarge(listener)
        listener.bind(("127.0.0.1", 0))
        print(listener.getsockname()[1], flush=True)  # noqa: T201 - its output
        serve(listener, ("127.0.0.1", int(sys.argv[1])))


if __name__ == "__main__":
    main()

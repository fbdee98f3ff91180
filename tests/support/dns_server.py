"""Owns a real DNS server over UDP (dnslib) that knows a few names."""

from collections.abc import Generator, Mapping
from contextlib import contextmanager

from dnslib import QTYPE, RCODE, RR, A, DNSRecord
from dnslib.server import BaseResolver, DNSHandler, DNSLogger, DNSServer


class _FixedAnswers(BaseResolver):
    def __init__(self, addresses: Mapping[str, str]) -> None:
        self._addresses = addresses

    def resolve(self, request: DNSRecord, handler: DNSHandler) -> DNSRecord:
        """Answer A questions for known names, NXDOMAIN for others."""
        del handler
        reply = request.reply()
        name = request.q.qname
        address = self._addresses.get(str(name).rstrip("."))
        if address is None:
            reply.header.rcode = RCODE.NXDOMAIN
        elif request.q.qtype == QTYPE.A:
            reply.add_answer(RR(name, QTYPE.A, rdata=A(address), ttl=60))
        return reply


@contextmanager
def run_dns_server(addresses: Mapping[str, str], *, host: str = "127.0.0.1") -> Generator[int]:
    """Serve while the block runs; yield the UDP port."""
    server = DNSServer(
        _FixedAnswers(addresses), address=host, port=0, logger=DNSLogger(logf=lambda _line: None)
    )
    server.start_thread()
    try:
        yield server.server.server_address[1]
    finally:
        server.stop()
        server.thread.join(timeout=10)
        server.server.server_close()

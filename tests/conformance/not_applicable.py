"""Owns the clauses that the relay cannot obey or break, or leaves alone, each with its reason."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class NotApplicable:
    """One clause, or several of one section."""

    rfc: str
    section: str
    requirement: str
    because: str


NOT_APPLICABLE = (
    NotApplicable(
        "RFC 8441", "3",
        "never take SETTINGS_ENABLE_CONNECT_PROTOCOL back once it was 1",
        "HTTP/3 sends SETTINGS once",
    ),
    NotApplicable(
        "RFC 9000", "8.1.3",
        "NEW_TOKEN tokens are tied to what they were issued for",
        "the relay issues none",
    ),
    NotApplicable(
        "RFC 9000", "9.6",
        "a preferred address is validated before it is used",
        "the relay offers none, and the client takes none up",
    ),
    NotApplicable(
        "RFC 9110", "7.6.3",
        "an intermediary adds itself to Via",
        "the relay forwards no HTTP message: a tunnel carries datagrams",
    ),
    NotApplicable(
        "RFC 9114", "4.6",
        "rules for server push",
        "the relay never pushes and the client never allows it (tests above)",
    ),
    NotApplicable(
        "RFC 9114", "10.2",
        "intermediaries take care when they translate messages to HTTP/1.1",
        "no message is translated",
    ),
    NotApplicable(
        "RFC 9209", "2",
        "keep the members of intermediaries closer to the origin, append our own",
        "every response begins at the relay",
    ),
    NotApplicable(
        "RFC 9209", "2.1.3",
        "next-protocol and received-status describe the hop behind",
        "that hop is plain UDP",
    ),
    NotApplicable(
        "RFC 9220", "3",
        "TCP FIN and RST map to the end or the reset of the stream",
        "the tests of connect-tcp-18 section 3 and of RFC 9114 section 4.4 show it",
    ),
    NotApplicable(
        "RFC 9221", "3",
        "a server that takes 0-RTT keeps max_datagram_frame_size at least as large",
        "the relay issues no session tickets, so there is no 0-RTT (tests/unit/quic/test_tls.py)",
    ),
    NotApplicable(
        "RFC 9297", "2.1.1",
        "a server that takes 0-RTT keeps SETTINGS_H3_DATAGRAM at least as large",
        "no session tickets, no 0-RTT",
    ),
    NotApplicable(
        "RFC 9297", "3.2",
        "intermediaries forward unknown capsules unmodified",
        "the relay ends every capsule stream itself",
    ),
    NotApplicable(
        "RFC 9297", "3.3",
        "redundant length encodings are verified to be consistent",
        "no capsule that the relay reads has any",
    ),
    NotApplicable(
        "RFC 9297", "3.5",
        "intermediaries re-encode datagrams only where they know of the capsule protocol",
        "the relay ends every capsule stream itself",
    ),
    NotApplicable(
        "RFC 9298", "3.1",
        "a recipient that is told to use another proxy forwards the request",
        "the relay is always the last HTTP hop",
    ),
    NotApplicable(
        "RFC 9298", "6.1",
        "tell a target by ICMP that its datagram was too large (a SHOULD)",
        "not done: it takes a raw socket and privileges; the relay drops and counts",
    ),
    NotApplicable(
        "RFC 9298", "4",
        "context IDs are registered and never reused",
        "no extension that registers contexts is implemented; only context 0 is ever sent",
    ),
    NotApplicable(
        "RFC 9484", "3",
        "clients check their template and refuse a bad one",
        "for clients; the relay checks its own when it reads its configuration",
    ),
    NotApplicable(
        "RFC 9484", "4.7.1",
        "an endpoint that needs an address asks for it with ADDRESS_REQUEST",
        "the relay needs none from its clients",
    ),
    NotApplicable(
        "RFC 9484", "5",
        "a context ID is never allocated twice",
        "the relay allocates none",
    ),
    NotApplicable(
        "RFC 9484", "10.2",
        "Not-ECT for packets outside of congestion control",
        "congestion control is never off",
    ),
    NotApplicable(
        "RFC 9484", "10.3",
        "never copy DSCP to the outer header; coalesce equal markings only",
        "the outer header never has a DSCP of an inner one, and all is congestion-controlled",
    ),
    NotApplicable(
        "RFC 9484", "11",
        "ICMP on shared addresses goes to the client whose packet it is about",
        "every tunnel has addresses of its own; behind NAT the kernel tells flows apart",
    ),
    NotApplicable(
        "connect-ip-dns-06", "3.2",
        "no ipv4hint or ipv6hint, no alpn without an authentication name",
        "the relay writes no service parameters",
    ),
    NotApplicable(
        "proxy-config-14", "2",
        "clients drop what has expired, and ask again after a random time",
        "`ghostctl proxy` asks once, when it starts (the relay spreads expiry by itself)",
    ),
    NotApplicable(
        "proxy-config-14", "5",
        "clients never use proxies that a network advertises by itself",
        "only the document of a named relay is read",
    ),
)  # fmt: skip

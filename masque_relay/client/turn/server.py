"""Owns where a TURN server is and what is shown to it: an entry of WebRTC's ``iceServers``."""

import re
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import ip_address
from pathlib import Path
from typing import cast

import orjson

from masque_relay.client.errors import CredentialError

MAX_FILE_BYTES = 65_536
MAX_SERVERS = 8
"""Each is given its share of the connect deadline."""

_DEFAULT_PORTS = {"turn": 3_478, "turns": 5_349}  # RFC 7065 section 3.2
_URI = re.compile(
    r"(?P<scheme>turns?):(?P<host>\[[0-9A-Fa-f:.]+\]|[^\[\]:?/@]+)(?::(?P<port>\d{1,5}))?"
    r"(?:\?transport=(?P<transport>udp|tcp))?"
)
_HINT = (
    'it holds one entry of iceServers: {"urls": ["turns:HOST:PORT"], "username": …, "credential": '
    "…}; `ghostctl token turn --json --uri …` prints one"
)


class TurnTransport(StrEnum):
    """How a client talks to its TURN server."""

    UDP = "udp"
    TCP = "tcp"
    TLS = "tls"


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnServer:
    """One server, one transport."""

    host: str
    port: int
    transport: TurnTransport

    def __str__(self) -> str:
        """Return its URI (RFC 7065)."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        scheme = "turns" if self.transport is TurnTransport.TLS else "turn"
        wanted = "udp" if self.transport is TurnTransport.UDP else "tcp"
        return f"{scheme}:{host}:{self.port}?transport={wanted}"


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnLogin:
    """A long-term credential (RFC 8489 section 9.2)."""

    username: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnRoute:
    """Servers, in the order in which they are tried, and the credential for them."""

    servers: tuple[TurnServer, ...]
    login: TurnLogin | None = None
    """None: the token for the relay, which is shown to the relay's own host by TLS and nobody else:
    as a user name it is there for the server to read."""

    def login_for(self, server: TurnServer, *, relay_host: str, token: str) -> TurnLogin:
        """Return what to show a server.

        Raises:
            CredentialError: there is nothing but a token, and this is not the relay's host, or
                there is no TLS to protect it.
        """
        if self.login is not None:
            return self.login
        is_safe = server.transport is TurnTransport.TLS and server.host == relay_host
        if not token or not is_safe:
            raise CredentialError(
                f"no user name and password for {server}",
                hint="name them in the file of --turn; a token is shown to the relay's own turns:"
                " server only",
            )
        return TurnLogin(username=token, password=token)


def parse_turn_uri(text: str) -> TurnServer:
    """Return the server of a URI (RFC 7065 section 3.1).

    Raises:
        ValueError: it is none, or asks for DTLS.
    """
    found = _URI.fullmatch(text)
    if found is None:
        msg = f"{text[:200]!r} is no URI of a TURN server, such as turns:relay.example:5349"
        raise ValueError(msg)
    scheme, host, transport = found["scheme"], found["host"], found["transport"]
    port = int(found["port"] or _DEFAULT_PORTS[scheme])
    if not 0 < port < 65_536:
        msg = f"{text!r} has no port number"
        raise ValueError(msg)
    if host.startswith("["):
        host = str(ip_address(host[1:-1]))
    if scheme == "turns":
        if transport == "udp":
            msg = f"{text!r} is TURN over DTLS, which this client does not speak"
            raise ValueError(msg)
        return TurnServer(host=host, port=port, transport=TurnTransport.TLS)
    return TurnServer(host=host, port=port, transport=TurnTransport(transport or "udp"))


def load_turn_route(file: Path) -> TurnRoute:
    """Return what a file says that holds one entry of ``iceServers``, as WebRTC has it.

    Raises:
        CredentialError: it can't be read, or is no such entry; its secrets are not quoted.
    """
    try:
        with file.open("rb") as opened:
            data = opened.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise CredentialError(f"cannot read {file}: {error.strerror}", hint=_HINT) from error
    try:
        entry: object = orjson.loads(data) if len(data) <= MAX_FILE_BYTES else None
        if not isinstance(entry, dict):
            raise _unusable(file, "it is no JSON object")
        return _route(cast("dict[str, object]", entry))
    except ValueError as error:
        raise _unusable(file, str(error)) from error


def _route(entry: dict[str, object]) -> TurnRoute:
    listed = entry.get("urls", entry.get("url"))
    texts = cast("list[object]", listed) if isinstance(listed, list) else [listed]
    uris = [text for text in texts if isinstance(text, str) and not text.startswith("stun")]
    if not uris or len(uris) > MAX_SERVERS:
        msg = f"urls names {len(uris)} TURN servers, not 1 to {MAX_SERVERS}"
        raise ValueError(msg)
    username, password = entry.get("username"), entry.get("credential")
    login: TurnLogin | None = None
    if isinstance(username, str) and isinstance(password, str):
        login = TurnLogin(username=username, password=password)
    elif username is not None or password is not None:
        msg = "username and credential go together, and are texts"
        raise ValueError(msg)
    return TurnRoute(servers=tuple(map(parse_turn_uri, uris)), login=login)


def _unusable(file: Path, why: str) -> CredentialError:
    return CredentialError(f"{file} names no TURN server: {why}", hint=_HINT)

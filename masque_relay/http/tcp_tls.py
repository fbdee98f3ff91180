"""Owns TLS for the TCP listener: which certificate a name gets, client certificates, ALPN."""

import asyncio
import socket
import ssl
import tempfile
from asyncio.sslproto import SSLProtocol
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ALPN_H2 = "h2"
ALPN_H1 = "http/1.1"
CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"  # RFC 9113 section 9.2.2 forbids all others for TLS 1.2

READ_BUFFER_BYTES = 32_768
"""Of each connection, for as long as it lives: two TLS records."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateFiles:
    """A certificate for the names that it has."""

    certificate_file: Path
    key_file: Path
    names: frozenset[str]
    """DNS names in lower case; a wildcard as ``*.example.org``."""
    note_pem: bytes = b""
    """A certificate to send behind the chain, which clients that do not look for it ignore."""


class ServerTls(ssl.SSLObject):
    """The server's side of one handshake.

    Attributes:
        client_server_name: SNI as the client sent it.
    """

    client_server_name: str | None = None


def build_server_context(
    identities: Sequence[CertificateFiles],
    *,
    client_ca_pem: bytes | None = None,
    asks_for_certificate: bool = False,
    requires_certificate: bool = False,
    refuse_unknown_names: bool = False,
    alpn_protocols: Sequence[str] = (ALPN_H2, ALPN_H1),
) -> ssl.SSLContext:
    """Return a context that gives a client the certificate of the name it asks for.

    Reads the files: run it in a thread.

    Args:
        identities: the first one is for clients that ask for no name, or for an unknown one.
        client_ca_pem: CAs whose client certificates the handshake accepts.
        asks_for_certificate: a client may present one.
        requires_certificate: a client without one is refused.
        refuse_unknown_names: refuse a name that no certificate has.
        alpn_protocols: what is served, best first; a client that asks for none of it gets none.

    Raises:
        OSError: a file can't be read, or (ssl.SSLError) is not what it should be.
    """
    contexts = [
        _context(
            identity,
            client_ca_pem=client_ca_pem if asks_for_certificate else None,
            requires_certificate=requires_certificate,
            alpn_protocols=alpn_protocols,
        )
        for identity in identities
    ]
    by_name: dict[str, ssl.SSLContext] = {}
    for identity, context in zip(identities, contexts, strict=True):
        for name in identity.names:
            by_name.setdefault(name, context)

    def choose(connection: ssl.SSLObject, server_name: str | None, _: ssl.SSLContext) -> int | None:
        if server_name is None:
            return None
        if isinstance(connection, ServerTls):
            connection.client_server_name = server_name
        name = server_name.lower().rstrip(".")
        parent = "*." + name.partition(".")[2]
        context = by_name.get(name) or by_name.get(parent)
        if context is None:
            # RFC 6066 section 3.
            return ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME if refuse_unknown_names else None
        if context is not contexts[0]:
            connection.context = context
        return None

    contexts[0].sni_callback = choose
    return contexts[0]


def _context(
    identity: CertificateFiles,
    *,
    client_ca_pem: bytes | None,
    requires_certificate: bool,
    alpn_protocols: Sequence[str],
) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.sslobject_class = ServerTls
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(list(alpn_protocols))
    _load_chain(context, identity)
    if client_ca_pem is not None:
        context.load_verify_locations(cadata=client_ca_pem.decode("ascii"))
        context.verify_mode = ssl.CERT_REQUIRED if requires_certificate else ssl.CERT_OPTIONAL
        # A resumed session would carry a certificate that was verified long ago.
        context.options |= ssl.OP_NO_TICKET
        context.num_tickets = 0
    return context


def _load_chain(context: ssl.SSLContext, identity: CertificateFiles) -> None:
    if not identity.note_pem:
        context.load_cert_chain(identity.certificate_file, identity.key_file)
        return
    # OpenSSL reads a chain from one file only; there is no secret in it.
    with tempfile.NamedTemporaryFile(suffix=".pem") as chain:
        chain.write(identity.certificate_file.read_bytes() + b"\n" + identity.note_pem)
        chain.flush()
        context.load_cert_chain(chain.name, identity.key_file)


class _LeanTls(SSLProtocol):
    """asyncio's own TLS, which gives each connection 256 KiB to read into."""

    max_size = READ_BUFFER_BYTES


async def accept_tls(
    client: socket.socket,
    protocol: asyncio.Protocol,
    context: ssl.SSLContext,
    *,
    handshake_timeout_s: float,
    close_timeout_s: float,
) -> None:
    """Speak TLS on an accepted socket; return when the handshake is complete.

    What ``loop.connect_accepted_socket(..., ssl=context)`` does, with a smaller buffer.

    Raises:
        OSError: the handshake failed (ssl.SSLError included).
    """
    loop = asyncio.get_running_loop()
    complete: asyncio.Future[None] = loop.create_future()
    tls = _LeanTls(
        loop,
        protocol,
        context,
        complete,
        server_side=True,
        ssl_handshake_timeout=handshake_timeout_s,  # type: ignore[arg-type]  # typeshed: int
        ssl_shutdown_timeout=close_timeout_s,
    )
    transport, _ = await loop.connect_accepted_socket(lambda: tls, client)
    try:
        await complete
    except BaseException:
        transport.close()
        raise


def peer_chain(connection: ssl.SSLObject) -> tuple[bytes, ...]:
    """Return what the client presented, DER, leaf first; empty without one."""
    leaf = connection.getpeercert(binary_form=True)
    if leaf is None:
        return ()
    get_chain: Callable[[], list[bytes]] | None = getattr(connection, "get_unverified_chain", None)
    if get_chain is not None:  # Python 3.13
        return tuple(get_chain()) or (leaf,)
    inner: Any = getattr(connection, "_sslobj", None)  # before 3.13 it is there, but inside
    certificates: list[Any] = [] if inner is None else inner.get_unverified_chain() or []
    chain = tuple(ssl.PEM_cert_to_DER_cert(str(item.public_bytes())) for item in certificates)
    return chain or (leaf,)

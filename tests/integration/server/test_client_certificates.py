"""Client certificates over HTTP/2 and HTTP/1.1: from the TLS handshake through the gate."""

import ssl
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from tests.integration.server.conftest import connect_udp
from tests.integration.server.test_https import address_of
from tests.support.managed_relay import ManagedRelay, managed_relay
from tests.support.site_certificate import SiteCertificate, write_site_certificate
from tests.support.tcp_clients import H1Client, H2Client, client_context, upgrade_request

POLICY = """
[[rule]]
name = "echo"
action = "allow"
who = ["alice.clients.example"]
methods = ["connect-udp"]
targets = ["127.0.0.1/32:*"]
"""


@contextmanager
def relay_with_client_ca(
    directory: Path, authority: SiteCertificate, *, requires: bool = False
) -> Generator[ManagedRelay]:
    config = f'\n[gate.mtls]\nca_files = ["{authority.ca_file}"]\n'
    environ = {"GHOSTWIRE__TLS__REQUIRE_CLIENT_CERTIFICATE": "true"} if requires else {}
    with managed_relay(directory, policy=POLICY, config=config, environ=environ) as relay:
        yield relay


def clients(directory: Path, name: str = "alice") -> SiteCertificate:
    """A CA for clients, and one client."""
    names = (f"{name}.clients.example",)
    return write_site_certificate(directory / name, names=names, addresses=(), is_for_client=True)


def context_for(relay: ManagedRelay, version: str, who: SiteCertificate | None) -> ssl.SSLContext:
    alpn = "h2" if version == "2" else "http/1.1"
    context = client_context(relay.ca_file.read_bytes(), alpn)
    if who is not None:
        context.load_cert_chain(who.certificate_file, who.key_file)
    return context


async def tunnel_status(
    relay: ManagedRelay, version: str, who: SiteCertificate | None, echo_port: int
) -> int | None:
    """Ask for a tunnel without any other credential; use it where it opens."""
    context = context_for(relay, version, who)
    address = address_of(relay, "https")
    if version == "2":
        h2 = await H2Client.connect(address, b"", context=context)
        head = [line for line in connect_udp(relay, echo_port) if line[0] != b"authorization"]
        stream_id, exchange = await h2.request(head)
        if exchange.status == 200:
            await h2.echo(stream_id, b"by certificate")
            await assert_subject(relay)
        await h2.close()
        return exchange.status
    h1 = await H1Client.connect(address, b"", context=context)
    answer = await h1.request(upgrade_request(f"/.well-known/masque/udp/127.0.0.1/{echo_port}/"))
    if answer.status == 101:
        await h1.echo(b"by certificate")
        await assert_subject(relay)
    await h1.close()
    return answer.status


async def is_refused(
    relay: ManagedRelay, version: str, who: SiteCertificate | None, echo_port: int
) -> bool:
    """Whether the handshake fails. With TLS 1.3 the client has finished when the server says no."""
    try:
        return await tunnel_status(relay, version, who, echo_port) is None
    except (ssl.SSLError, ConnectionError, EOFError):
        return True


async def assert_subject(relay: ManagedRelay) -> None:
    with relay.admin() as admin:
        tunnel = admin.tunnels()[-1]
    assert tunnel["subject"] == "alice.clients.example"


SUCCESS = {"2": 200, "1.1": 101}


async def test_a_certificate_is_the_credential(tmp_path: Path, echo_port: int) -> None:
    alice, mallory = clients(tmp_path), clients(tmp_path, "mallory")
    with relay_with_client_ca(tmp_path, alice) as relay:
        for version, success in SUCCESS.items():
            assert await tunnel_status(relay, version, alice, echo_port) == success
            assert await tunnel_status(relay, version, None, echo_port) == 401
            # Of a CA that nobody named.
            assert await is_refused(relay, version, mallory, echo_port)


async def test_where_one_is_required_nobody_gets_in_without(tmp_path: Path, echo_port: int) -> None:
    alice = clients(tmp_path)
    with relay_with_client_ca(tmp_path, alice, requires=True) as relay:
        for version, success in SUCCESS.items():
            assert await tunnel_status(relay, version, alice, echo_port) == success
            assert await is_refused(relay, version, None, echo_port)

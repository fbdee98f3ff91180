"""HTTP/2 and HTTP/1.1 of a relay process: where it listens, reload, drain, status."""

import json
import shutil
import socket
import ssl
import subprocess
import sys
from ipaddress import ip_address
from pathlib import Path

import pytest

from masque_relay.contract.address import Endpoint
from tests.integration.server.conftest import connect_udp
from tests.support.managed_relay import ManagedRelay, managed_relay
from tests.support.site_certificate import write_site_certificate
from tests.support.tcp_clients import H1Client, H2Client

GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


def address_of(relay: ManagedRelay, listener: str) -> Endpoint:
    """What the ready file says of ``h3`` or ``https``."""
    host, _, port = relay.ready[listener].rpartition(":")
    return Endpoint(address=ip_address(host.strip("[]")), port=int(port))


async def test_tunnel_over_http2_beside_http3(tmp_path: Path, echo_port: int) -> None:
    with managed_relay(tmp_path) as relay:
        assert relay.ready["https"] == relay.ready["h3"], "the same port, on TCP"
        client = await H2Client.connect(address_of(relay, "https"), relay.ca_file.read_bytes())
        stream_id, answer = await client.request(connect_udp(relay, echo_port))
        assert answer.status == 200
        assert answer.fields["alt-svc"].startswith(f'h3=":{address_of(relay, "h3").port}"')
        await client.echo(stream_id, b"over TCP")

        with relay.admin() as admin:
            status = admin.status()
            (tunnel,) = admin.tunnels()
        assert status["https"] == relay.ready["https"]
        assert status["tcp_connections"] == 1
        assert tunnel["transport"] == "h2"
        await client.close()


async def test_reload_changes_the_certificate_and_drops_nobody(
    tmp_path: Path, echo_port: int
) -> None:
    with managed_relay(tmp_path) as relay:
        old_ca = relay.ca_file.read_bytes()
        client = await H2Client.connect(address_of(relay, "https"), old_ca)
        stream_id, _ = await client.request(connect_udp(relay, echo_port))
        other = write_site_certificate(tmp_path / "other")
        shutil.copy(other.certificate_file, relay.state.certificate_file)
        shutil.copy(other.key_file, relay.state.key_file)
        with relay.admin() as admin:
            assert "certificate" in admin.reload()["changed"]

        await client.echo(stream_id, b"still here")
        with pytest.raises(ssl.SSLCertVerificationError):
            await H1Client.connect(address_of(relay, "https"), old_ca)
        after = await H1Client.connect(address_of(relay, "https"), other.ca_file.read_bytes())
        assert (await after.request(GET)).status == 200
        await client.close()


async def test_sigterm_ends_connections_and_exits_with_0(tmp_path: Path, echo_port: int) -> None:
    with managed_relay(tmp_path) as relay:
        ca_pem = relay.ca_file.read_bytes()
        tunnel, idle = (
            await H2Client.connect(address_of(relay, "https"), ca_pem),
            await H1Client.connect(address_of(relay, "https"), ca_pem),
        )
        assert (await tunnel.request(connect_udp(relay, echo_port)))[1].status == 200
        assert (await idle.request(GET)).status == 200
        relay.process.terminate()

        await tunnel.until(lambda: tunnel.is_lost)
        assert tunnel.goaway is not None
        assert relay.terminate() == 0


def test_taken_port_is_said_and_http3_goes_on(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with managed_relay(tmp_path, arguments=["--listen", f"127.0.0.1:{port}"]) as relay:
            assert "https" not in relay.ready
            (record,) = relay.records("no HTTP/2 and HTTP/1.1: the TCP port is taken")
            assert record["hint"] == "set listen.https"
            with relay.admin() as admin:
                assert admin.status()["https"] is None


def test_off_opens_no_tcp_port(tmp_path: Path) -> None:
    with managed_relay(tmp_path, environ={"GHOSTWIRE__LISTEN__HTTPS": "off"}) as relay:
        assert "https" not in relay.ready
        h3 = address_of(relay, "h3")
        with socket.socket() as client:
            assert client.connect_ex((str(h3.address), h3.port)) != 0


async def test_address_of_its_own(tmp_path: Path) -> None:
    with managed_relay(tmp_path, environ={"GHOSTWIRE__LISTEN__HTTPS": "127.0.0.2:0"}) as relay:
        address = address_of(relay, "https")
        assert str(address.address) == "127.0.0.2"
        client = await H1Client.connect(address, relay.ca_file.read_bytes())
        answer = await client.request(GET)

        assert answer.status == 200
        assert answer.fields["alt-svc"].startswith(f'h3=":{address_of(relay, "h3").port}"')


def test_address_that_is_taken_is_an_error_that_names_its_key(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        process = subprocess.run(
            [
                sys.executable, "-m", "masque_relay.cli.main", "relay", "run", "--dev",
                "--state-dir", str(tmp_path / "state"), "--listen", "127.0.0.1:0",
                "--admin", "127.0.0.1:0",
            ],
            env={"GHOSTWIRE__LISTEN__HTTPS": address},
            capture_output=True,
            text=True,
            timeout=50,
            check=False,
        )  # fmt: skip

    assert process.returncode == 2, process.stderr
    assert "listen.https" in process.stderr
    assert address in process.stderr


def test_status_command_shows_it(tmp_path: Path) -> None:
    with managed_relay(tmp_path) as relay:
        command = [
            sys.executable, "-m", "masque_relay.cli.main", "relay", "status", "--json",
            "--state-dir", str(relay.state.directory),
        ]  # fmt: skip
        answer = subprocess.run(command, capture_output=True, text=True, timeout=50, check=True)

    assert json.loads(answer.stdout)["https"] == relay.ready["https"]

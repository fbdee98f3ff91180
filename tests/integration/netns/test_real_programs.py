"""OpenSSH and WireGuard between two peers behind NATs, also where a network lets little out."""

import hashlib
import secrets
import shlex
from collections.abc import Generator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.integration.mesh.proxies import tinyproxy
from tests.support.mesh_lab import RELAY_ADDRESS, RELAY_PORT, Lab, PeerCommand, mesh_lab
from tests.support.mesh_traffic import WEB_PORT, downloading, web_site
from tests.support.openssh import SSH_PORT, SshClient, ssh_server
from tests.support.processes import TIMESCALE
from tests.support.vpn_rig import ping
from tests.support.wireguard import new_keys, wait_for_handshake, wireguard

FILE_BYTES = 3_000_000
WIREGUARD_PORT = 51820
ALICE_INSIDE, BOB_INSIDE = "10.99.7.1", "10.99.7.2"
TCP_WAYS = ("h2", "h1", "websocket", "https")

pytestmark = pytest.mark.timeout(180 * TIMESCALE)


@pytest.fixture
def lab(tmp_path: Path) -> Generator[Lab]:
    with mesh_lab(tmp_path) as running:
        yield running


@pytest.fixture
def ssh(lab: Lab, tmp_path: Path) -> Generator[SshClient]:
    """Bob runs sshd, and Alice may log in."""
    with ssh_server(lab.bob.machine, tmp_path / "ssh"):
        yield SshClient(host=lab.alice.machine, directory=tmp_path / "ssh")


def forward_ssh(lab: Lab, *options: str) -> PeerCommand:
    bob = lab.listen(f"ssh=127.0.0.1:{SSH_PORT}")
    return lab.forward(bob.told["peer_id"], ["127.0.0.1:0=ssh"], *options)


def test_ssh_runs_commands_and_moves_files(lab: Lab, ssh: SshClient, tmp_path: Path) -> None:
    alice = forward_ssh(lab)
    port = f"Port={alice.port()}"
    # Bob's network, and not Alice's.
    assert lab.bob.inside.encode() in ssh.run("root@127.0.0.1", "ip address", options=(port,))

    content = secrets.token_bytes(FILE_BYTES)
    digest = hashlib.sha256(content).hexdigest()
    there = tmp_path / "piped"
    command = f"tee {there} | sha256sum"
    assert digest in ssh.run("root@127.0.0.1", command, options=(port,), given=content).decode()
    assert there.read_bytes() == content

    fetched = tmp_path / "fetched"
    ssh.run(
        "-b", "-", "root@127.0.0.1",
        program="sftp", options=(port,), given=f"get {there} {fetched}\n".encode(),
    )  # fmt: skip
    assert hashlib.sha256(fetched.read_bytes()).hexdigest() == digest


def test_ssh_works_by_a_proxy_command(lab: Lab, ssh: SshClient) -> None:
    bob = lab.listen(f"ssh=127.0.0.1:{SSH_PORT}")
    command = lab.peer_command("alice", "connect", bob.told["peer_id"], "ssh")
    content = secrets.token_bytes(FILE_BYTES)
    said = ssh.run(
        "root@bob", "sha256sum", options=(f"ProxyCommand={shlex.join(command)}",), given=content
    )
    assert hashlib.sha256(content).hexdigest() in said.decode()


def test_ssh_works_where_only_an_http_proxy_leads_out(
    lab: Lab, ssh: SshClient, tmp_path: Path
) -> None:
    gateway = lab.alice.inside.rpartition(".")[0] + ".1"
    lab.alice.forward_nothing()
    with tinyproxy(tmp_path, host=lab.alice.router, address=gateway) as proxy:
        alice = forward_ssh(lab, "--proxy", proxy.url())
        content = secrets.token_bytes(FILE_BYTES)
        said = ssh.run(
            "root@127.0.0.1", "sha256sum", options=(f"Port={alice.port()}",), given=content
        )
        assert hashlib.sha256(content).hexdigest() in said.decode()
        assert alice.way in {"websocket", "https"}
        assert not alice.is_direct()
        assert f"CONNECT {RELAY_ADDRESS}:{RELAY_PORT}" in proxy.log()


@pytest.mark.parametrize("blocks_udp", [False, True], ids=["free", "without-udp"])
def test_wireguard_runs_through_a_forwarded_port(
    lab: Lab, tmp_path: Path, blocks_udp: bool
) -> None:
    if blocks_udp:
        lab.alice.block_udp()
    (alice_key, alice_public), (bob_key, bob_public) = (
        new_keys(tmp_path, name) for name in ("alice", "bob")
    )
    with ExitStack() as stack:
        at_bob = ["listen-port", str(WIREGUARD_PORT), "peer", alice_public]
        at_bob += ["allowed-ips", f"{ALICE_INSIDE}/32"]
        stack.enter_context(
            wireguard(lab.bob.machine, tmp_path, f"{BOB_INSIDE}/24", bob_key, at_bob)
        )
        sha256 = stack.enter_context(
            web_site(lab.bob.machine, tmp_path / "web", size_bytes=FILE_BYTES, address=BOB_INSIDE)
        )
        bob = lab.listen(f"vpn=udp:127.0.0.1:{WIREGUARD_PORT}")
        alice = lab.forward(bob.told["peer_id"], ["127.0.0.1:0=vpn"], "--udp")
        at_alice = ["peer", bob_public, "allowed-ips", f"{BOB_INSIDE}/32"]
        at_alice += ["endpoint", f"127.0.0.1:{alice.port()}", "persistent-keepalive", "1"]
        name = stack.enter_context(
            wireguard(lab.alice.machine, tmp_path, f"{ALICE_INSIDE}/24", alice_key, at_alice)
        )
        wait_for_handshake(lab.alice.machine, name)
        assert ping(lab.alice.machine, BOB_INSIDE)
        with downloading(
            lab.alice.machine, f"{BOB_INSIDE}:{WEB_PORT}", tmp_path, bytes_per_s=100_000_000
        ) as download:
            assert download.finish() == sha256
        if blocks_udp:
            assert alice.way in TCP_WAYS

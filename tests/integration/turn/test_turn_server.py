"""TURN over real sockets: every transport, family and credential; its life in a relay."""

import socket
import time
from contextlib import suppress
from pathlib import Path

import pytest

from masque_relay.contract.address import Endpoint
from masque_relay.control.auth.turn import bearer_key
from masque_relay.stun.channel_data import encode_channel_head
from masque_relay.stun.codepoints import Attribute, ErrorCode, Method
from masque_relay.stun.message import decode_message
from tests.support.managed_relay import managed_relay
from tests.support.turn_client import TCP, WAIT_S, Credentials, TurnClient, endpoint
from tests.support.turn_relay import PASSWORD, POLICY, USER, TurnRelay, turn_relay

CHANNEL = 0x4000
KINDS = ("udp", "tcp", "tls")
FAMILIES = (False, True)


def peer_socket(*, ipv6: bool = False, kind: int = socket.SOCK_DGRAM) -> socket.socket:
    family = socket.AF_INET6 if ipv6 else socket.AF_INET
    made = socket.socket(family, kind)
    made.settimeout(WAIT_S)
    made.bind(("::1" if ipv6 else "127.0.0.1", 0))
    return made


def address_of(peer: socket.socket) -> Endpoint:
    return endpoint(peer.getsockname()[:2])


def reach(client: TurnClient, *, ipv6: bool = False) -> None:
    """Send to a peer and back, by channel and by indication."""
    family = bytes((2 if ipv6 else 1, 0, 0, 0))
    relayed = client.allocate([(int(Attribute.REQUESTED_ADDRESS_FAMILY), family)])
    with peer_socket(ipv6=ipv6) as peer:
        assert client.permit(address_of(peer)).ok
        client.send_indication(address_of(peer), b"by indication")
        data, source = peer.recvfrom(2048)
        assert data == b"by indication"
        assert endpoint(source[:2]) == relayed
        peer.sendto(b"back", source)
        assert client.receive_data() == (address_of(peer), b"back")
        assert client.bind_channel(CHANNEL, address_of(peer)).ok
        client.send_channel(CHANNEL, b"by channel")
        assert peer.recv(2048) == b"by channel"
        for size in (0, 1, 5, 1200):
            peer.sendto(bytes(size), source)
            assert client.receive() == encode_channel_head(CHANNEL, size) + bytes(size)
    assert client.refresh(0).ok


@pytest.mark.parametrize("ipv6", FAMILIES, ids=["to IPv4", "to IPv6"])
@pytest.mark.parametrize("by_ipv6", FAMILIES, ids=["by IPv4", "by IPv6"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_client_of_every_transport_and_family_reaches_peers_of_both(
    turn: TurnRelay, kind: str, by_ipv6: bool, ipv6: bool
) -> None:
    with turn.client(kind, ipv6=by_ipv6) as client:
        reach(client, ipv6=ipv6)


@pytest.mark.parametrize("sha256", [False, True], ids=["MD5", "SHA-256"])
@pytest.mark.parametrize("anonymous", [False, True], ids=["name", "hash of name"])
def test_a_user_of_the_users_file(turn: TurnRelay, sha256: bool, anonymous: bool) -> None:
    credentials = Credentials(username=USER, password=PASSWORD, sha256=sha256, anonymous=anonymous)
    with turn.client(credentials=credentials) as client:
        reach(client)


def test_a_mesh_token_through_tls(turn: TurnRelay) -> None:
    token = turn.relay.token
    by_access_token = Credentials(
        username="any",
        key=bearer_key(token),
        more=[(Attribute.ACCESS_TOKEN, token.encode())],
    )
    as_password = Credentials(username=token, password=token)
    for credentials in (by_access_token, as_password):
        with turn.client("tls", credentials=credentials) as client:
            reach(client)


def test_the_https_port_serves_turn_by_alpn_and_http_beside_it(turn: TurnRelay) -> None:
    host, _, port = turn.relay.ready["https"].rpartition(":")
    with turn.client("tls", address=(host, int(port))) as client:
        reach(client)
    handshakes_other = turn.relay.metrics()['ghostwire_relay_tcp_handshakes_total{result="other"}']
    assert handshakes_other >= 1


def test_the_port_of_http3_serves_turn_too(turn: TurnRelay) -> None:
    with turn.client(address=turn.relay.address) as client:
        reach(client)


def test_two_clients_reach_each_others_relayed_addresses(turn: TurnRelay) -> None:
    with turn.client() as one, turn.client("tcp") as other:
        first, second = one.allocate(), other.allocate()
        assert one.bind_channel(CHANNEL, second).ok
        assert other.bind_channel(CHANNEL, first).ok
        one.send_channel(CHANNEL, b"ping")
        assert other.receive()[4:] == b"ping"
        other.send_channel(CHANNEL, b"pong")
        assert one.receive()[4:] == b"pong"


def test_tcp_is_relayed_both_ways(turn: TurnRelay) -> None:
    credentials = turn.credentials()
    with turn.client("tcp", credentials=credentials) as control:
        relayed = control.allocate(transport=TCP)
        with peer_socket(kind=socket.SOCK_STREAM) as listening:
            listening.listen()
            reply = control._with_peers(Method.CONNECT, [address_of(listening)])
            accepted, source = listening.accept()
            assert endpoint(source) == relayed
            with accepted, turn.client("tcp", credentials=credentials) as data:
                number = [(int(Attribute.CONNECTION_ID), reply[Attribute.CONNECTION_ID])]
                assert data.request(Method.CONNECTION_BIND, number).ok
                data.socket.sendall(b"to the peer" * 10_000)
                got = b""
                while len(got) < 110_000:
                    got += accepted.recv(65_536)
                accepted.sendall(b"to the client")
                assert data.socket.recv(100) == b"to the client"
                accepted.close()
                assert data.socket.recv(100) == b""
        with peer_socket(kind=socket.SOCK_STREAM) as peer:
            assert control.permit(address_of(peer)).ok
            peer.connect((str(relayed.address), relayed.port))
            attempt = decode_message(control.receive())
            assert attempt.method == Method.CONNECTION_ATTEMPT
            assert control.refresh(0).ok
            assert peer.recv(1) == b""


def test_a_closed_port_of_a_peer_is_told_as_icmp(turn: TurnRelay) -> None:
    with turn.client() as client:
        client.allocate()
        with peer_socket() as peer:
            closed = address_of(peer)
        assert client.permit(closed).ok
        client.send_indication(closed, b"anybody there")
        told = decode_message(client.receive())
        assert told.get(Attribute.ICMP) == bytes((0, 0, 3, 3, 0, 0, 0, 0))


def test_status_sessions_and_metrics_know_of_it(turn: TurnRelay) -> None:
    with turn.client() as client, turn.relay.admin() as admin:
        before = {one["lease_id"] for one in admin.tunnels()}
        client.allocate()
        (ours,) = [one for one in admin.tunnels() if one["lease_id"] not in before]
        assert (ours["transport"], ours["method"], ours["subject"]) == ("turn", "bind-udp", "dev")
        told = admin.status()["turn"]
        assert isinstance(told, dict)
        assert told["allocations"] == len(before) + 1
        assert turn.relay.metrics()["ghostwire_relay_turn_allocations"] == len(before) + 1
        admin.kick(str(ours["lease_id"]))
        assert client.refresh().error == ErrorCode.ALLOCATION_MISMATCH


def test_a_connection_that_sends_rubbish_is_cut(turn: TurnRelay) -> None:
    with socket.create_connection(turn.address("tcp"), WAIT_S) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" + bytes(70_000))
        connection.settimeout(WAIT_S)
        with suppress(ConnectionResetError):
            assert connection.recv(100) == b""


class TestLife:
    def test_off_means_no_socket_and_no_route(self, tmp_path: Path) -> None:
        with managed_relay(tmp_path) as relay, relay.admin() as admin:
            assert admin.status()["turn"] is None
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
                probe.settimeout(0.3)
                probe.connect(relay.address)
                probe.send(bytes.fromhex("000100002112a442") + bytes(12))
                with pytest.raises(TimeoutError):
                    probe.recv(100)

    def test_revocation_reload_and_drain(self, tmp_path: Path) -> None:
        alternate = "[turn.limits]\nmax_allocation_lifetime_s = 900\n"
        with turn_relay(
            tmp_path, more=alternate, environ={"GHOSTWIRE__DRAIN__DEADLINE_S": "20"}
        ) as turn:
            with turn.client() as client, turn.relay.admin() as admin:
                client.allocate()
                admin.revoke(subject="dev", token_id=None)
                assert client.refresh().error == ErrorCode.UNAUTHENTICATED
            users = Credentials(username=USER, password=PASSWORD)
            with turn.client(credentials=users) as client, turn.relay.admin() as admin:
                client.allocate()
                granted = client.refresh(3600)[Attribute.LIFETIME]
                assert int.from_bytes(granted, "big") == 900
                config = turn.relay.state.config_file
                text = config.read_text().replace("= 900", "= 1200")
                elsewhere = 'alternate_servers = ["192.0.2.9:3478"]\n'
                config.write_text(text.replace("[turn]\n", f"[turn]\n{elsewhere}"))
                admin.reload()
                granted = client.refresh(3600)[Attribute.LIFETIME]
                assert int.from_bytes(granted, "big") == 1200
                admin.drain(deadline_s=20)
                deadline_s = time.monotonic() + WAIT_S
                with turn.client(credentials=Credentials(username=USER, password=PASSWORD)) as late:
                    while (reply := late.try_allocate()).ok:
                        assert late.refresh(0).ok
                        assert time.monotonic() < deadline_s
                assert reply.error == ErrorCode.TRY_ALTERNATE
                assert client.refresh().ok
                assert client.refresh(0).ok
            assert turn.relay.terminate() == 0

    def test_a_policy_without_bind_udp_forbids_it(self, tmp_path: Path) -> None:
        policy = POLICY.replace('"bind-udp", ', "")
        with turn_relay(tmp_path, policy=policy) as turn, turn.client() as client:
            assert client.try_allocate().error == ErrorCode.FORBIDDEN

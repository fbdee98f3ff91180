"""URIs of TURN servers, and the file that names them."""

import json
from pathlib import Path

import pytest

from masque_relay.client.errors import CredentialError
from masque_relay.client.turn.server import (
    TurnLogin,
    TurnRoute,
    TurnServer,
    TurnTransport,
    load_turn_route,
    parse_turn_uri,
)


@pytest.mark.parametrize(
    ("uri", "host", "port", "transport"),
    [
        ("turn:relay.example", "relay.example", 3478, "udp"),
        ("turn:192.0.2.1:80?transport=tcp", "192.0.2.1", 80, "tcp"),
        ("turns:relay.example", "relay.example", 5349, "tls"),
        ("turns:[2001:db8::1]:443?transport=tcp", "2001:db8::1", 443, "tls"),
    ],
)
def test_uri_says_host_port_and_transport(uri: str, host: str, port: int, transport: str) -> None:
    server = parse_turn_uri(uri)
    assert server == TurnServer(host=host, port=port, transport=TurnTransport(transport))
    assert parse_turn_uri(str(server)) == server


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "relay.example",
        "stun:relay.example",
        "turn:",
        "turn:user@relay.example",
        "turn:relay.example:0",
        "turn:relay.example:65536",
        "turn:relay.example?transport=sctp",
        "turns:relay.example?transport=udp",
        "turn:[::g]",
        "turn:2001:db8::1",
    ],
)
def test_other_texts_are_none(uri: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_turn_uri(uri)


def test_entry_of_ice_servers_is_a_route(tmp_path: Path) -> None:
    file = tmp_path / "turn.json"
    uris = ["stun:relay.example", "turn:relay.example", "turns:relay.example"]
    file.write_text(json.dumps({"urls": uris, "username": "1:alice", "credential": "secret"}))
    route = load_turn_route(file)
    assert [str(server.transport) for server in route.servers] == ["udp", "tls"]
    assert route.login == TurnLogin(username="1:alice", password="secret")
    assert "secret" not in repr(route)


def test_one_uri_alone_is_enough(tmp_path: Path) -> None:
    file = tmp_path / "turn.json"
    file.write_text('{"urls": "turns:relay.example"}')
    route = load_turn_route(file)
    assert route.login is None
    login = route.login_for(route.servers[0], relay_host="relay.example", token="token")
    assert login == TurnLogin(username="token", password="token")


@pytest.mark.parametrize("transport", [TurnTransport.UDP, TurnTransport.TCP])
def test_token_goes_through_tls_only(transport: TurnTransport) -> None:
    server = TurnServer(host="relay.example", port=3478, transport=transport)
    with pytest.raises(CredentialError, match="no user name"):
        TurnRoute(servers=(server,)).login_for(server, relay_host="relay.example", token="token")


def test_token_is_shown_to_no_other_host() -> None:
    server = parse_turn_uri("turns:turn.example")
    with pytest.raises(CredentialError, match="no user name"):
        TurnRoute(servers=(server,)).login_for(server, relay_host="relay.example", token="token")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"urls": []}',
        '{"urls": ["stun:relay.example"]}',
        '{"urls": ["turn:relay.example"], "username": "secret"}',
        '{"urls": ["turn:relay.example"], "username": 1, "credential": "secret"}',
        json.dumps({"urls": ["turn:relay.example"] * 9}),
        " " * 70_000 + '{"urls": ["turn:relay.example"]}',
    ],
)
def test_other_files_are_told_without_their_secrets(tmp_path: Path, text: str) -> None:
    file = tmp_path / "turn.json"
    file.write_text(text)
    with pytest.raises(CredentialError, match="names no TURN server") as unusable:
        load_turn_route(file)
    assert "secret" not in unusable.value.message


def test_absent_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(CredentialError, match="No such file"):
        load_turn_route(tmp_path / "absent")

"""Credential x way: a good one is admitted as its subject, a wrong and an expired one are refused.

The table is in credential_table.py. A new kind of credential or Way has no row there, and fails.
"""

import secrets
import time
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from typing import assert_never, get_args

import pytest
from argon2 import PasswordHasher
from cryptography import x509
from nacl.public import PrivateKey

from masque_relay.admin.client import AdminClient
from masque_relay.client import Basic, Bearer, ClientError, MutualTls, TunnelRefused
from masque_relay.client.mesh.identity import PeerIdentity
from masque_relay.config.dev_state import DevState
from masque_relay.contract.request import Credential, MalformedCredential
from masque_relay.contract.verdict import DenyReason
from masque_relay.control.auth.principal import CredentialKind
from masque_relay.control.auth.turn import AccessToken, bearer_key, seal_access_token, turn_keys
from masque_relay.stun.codepoints import Attribute
from masque_relay.wire.node_key import format_node_key
from tests.security.every_way.credential_table import TABLE, UNSAYABLE, Kind, modules_of
from tests.security.every_way.denial_table import heard_at
from tests.support.client_certificates import Authority
from tests.support.every_way import Way
from tests.support.every_way_relay import EveryWayRelay, every_way_relay, time_limited
from tests.support.knocks import Shown, knocking
from tests.support.mesh_arrival import token_of
from tests.support.mesh_peer import MeshPeer
from tests.support.node_key_verifier import run_verifier
from tests.support.turn_client import Credentials

pytestmark = pytest.mark.asyncio(loop_scope="module")

ROOT = Path(__file__).parents[3]
PORT = 9
"""Nobody needs to be there: UDP tunnels open all the same."""
PASSWORD = "correct horse"
REALM = "ghostwire"
SERVER_NAME = "turn.example"
CERTIFIED = "alice@example.org"
POLICY = f"""
[group.verified]
claims = ["verified"]

[[rule]]
name = "others"
action = "allow"
who = ["carol", "{CERTIFIED}", "empire", "group:verified"]
methods = ["connect-udp", "bind-udp", "ghostwire"]
targets = ["127.0.0.0/8:*", "*:*"]
"""
CONFIG = """
[gate.basic]
users_file = "users.toml"
failure_burst = 200

[gate.mtls]
ca_files = ["clients.pem"]
"""
STUN = f"""
server_name = "{SERVER_NAME}"
token_keys = [{{ kid = "north", key_file = "north.key", subject = "empire" }}]
"""


class State(Enum):
    """What is up with a credential."""

    GOOD = auto()
    WRONG = auto()
    EXPIRED = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class Wallet:
    """A relay, and credentials of every kind for it."""

    relay: EveryWayRelay
    admin: AdminClient
    shared_key: bytes
    """With the third party."""
    verified: PrivateKey
    certificates: dict[State, MutualTls]

    def shown(self, kind: Kind, state: State, peer: MeshPeer) -> Shown:  # noqa: C901, PLR0911  (one per member)
        """Return a credential; ``peer`` is who a token may be bound to."""
        match kind:
            case Kind.BEARER:
                return Bearer(token=self._token(state))
            case Kind.BOUND_TOKEN:
                is_own = state is not State.WRONG
                identity = peer.identity if is_own else PeerIdentity.generate()
                return Bearer(token=self._token(state, identity))
            case Kind.PASSWORD:
                user, password = _account(state)
                return Basic(user=user, password=password)
            case Kind.CERTIFICATE:
                return self.certificates[state]
            case Kind.TIME_LIMITED:
                secret = {"secret": "another secret"} if state is State.WRONG else {}
                lifetime_s = -1 if state is State.EXPIRED else 600
                return time_limited("guest", lifetime_s=lifetime_s, **secret)
            case Kind.TURN_USER:
                user, password = _account(state)
                return Credentials(username=user, password=password)
            case Kind.TOKEN_AS_NAME:
                token = self._token(state)
                return Credentials(username=token, password=token)
            case Kind.ACCESS_TOKEN:
                token = self._token(state)
                return _with_access_token("any", bearer_key(token), token.encode())
            case Kind.THIRD_PARTY:
                return self._of_third_party(state)
            case Kind.NODE_KEY:
                return self.relay.keys["guest" if state is State.GOOD else "mallory"]
            case Kind.VERIFIED_KEY:
                return self.verified if state is State.GOOD else PrivateKey.generate()
            case _:
                assert_never(kind)

    def subject(self, kind: Kind) -> str:
        """Return whom a good credential proves."""
        match kind:
            case Kind.PASSWORD | Kind.TURN_USER:
                return "carol"
            case Kind.CERTIFICATE:
                return CERTIFIED
            case Kind.THIRD_PARTY:
                return "empire"
            case Kind.VERIFIED_KEY:
                return format_node_key(bytes(self.verified.public_key))
            case _:
                return "guest"

    def _token(self, state: State, identity: PeerIdentity | None = None) -> str:
        age_s = 3_600 if state is State.EXPIRED else 0
        token = token_of(self.relay.relay, "guest", identity=identity, age_s=age_s)
        if state is not State.WRONG or identity is not None:
            return token
        head, _, signature = token.rpartition(".")
        return f"{head}.{signature[::-1]}"

    def _of_third_party(self, state: State) -> Credentials:
        mac_key = secrets.token_bytes(32)
        issued_s = time.time() - (3_600 if state is State.EXPIRED else 0)
        token = seal_access_token(
            AccessToken(mac_key=mac_key, issued_s=issued_s, expires_s=issued_s + 600),
            secrets.token_bytes(32) if state is State.WRONG else self.shared_key,
            SERVER_NAME,
        )
        return _with_access_token("north", mac_key, token)


def _account(state: State) -> tuple[str, str]:
    return (
        "ended" if state is State.EXPIRED else "carol",
        "wrong horse" if state is State.WRONG else PASSWORD,
    )


def _with_access_token(username: str, key: bytes, token: bytes) -> Credentials:
    return Credentials(username=username, key=key, more=[(int(Attribute.ACCESS_TOKEN), token)])


@pytest.fixture(scope="module")
def wallet(tmp_path_factory: pytest.TempPathFactory) -> Generator[Wallet]:
    """A relay that takes every kind, and their credentials."""
    directory = tmp_path_factory.mktemp("wallet")
    shared_key, verified = secrets.token_bytes(32), PrivateKey.generate()
    authority = Authority.make(now_s=time.time())
    alice, bob = x509.RFC822Name(CERTIFIED), x509.RFC822Name("bob@example.org")
    certificates = {
        State.GOOD: authority.write(directory / "alice", alice),
        State.WRONG: authority.write(directory / "two", alice, bob),  # nobody knows who it is
        State.EXPIRED: authority.write(directory / "old", alice, begins_s=-7_200, ends_s=-3_600),
    }

    def prepare(state: DevState) -> None:
        (state.directory / "clients.pem").write_bytes(authority.pem)
        (state.directory / "north.key").write_bytes(shared_key)
        (state.directory / "users.toml").write_text(
            _user("carol") + _user("ended") + "expires = 2020-01-01T00:00:00Z\n"
        )

    with (
        run_verifier(format_node_key(bytes(verified.public_key))) as verifier,
        every_way_relay(
            tmp_path_factory.mktemp("relay"),
            config=CONFIG,
            stun=STUN,
            node_keys=f'verifier_url = "{verifier.url}"\nverifier_groups = ["verified"]',
            policy=POLICY,
            change=prepare,
        ) as relay,
        relay.relay.admin() as admin,
    ):
        yield Wallet(
            relay=relay,
            admin=admin,
            shared_key=shared_key,
            verified=verified,
            certificates=certificates,
        )


def _user(name: str) -> str:
    hashed = PasswordHasher(time_cost=1, memory_cost=64, parallelism=1).hash(PASSWORD)
    md5, sha256 = turn_keys(name, REALM, PASSWORD)
    return (
        f'[user.{name}]\npassword_hash = "{hashed}"\n'
        f'turn_md5 = "{md5.hex()}"\nturn_sha256 = "{sha256.hex()}"\n'
    )


def each(pairs: Iterable[tuple[Kind, Way]]) -> pytest.MarkDecorator:
    """Return a mark that runs a test for each pair."""
    listed = list(pairs)
    ids = [f"{kind.name.lower()}-{way}" for kind, way in listed]
    return pytest.mark.parametrize(("kind", "way"), listed, ids=ids)


TAKEN = [(kind, way) for kind, row in TABLE.items() for way in row.taken_at]
REFUSED = [(kind, way) for kind, row in TABLE.items() for way in row.refused_at]
UNSAID = [(kind, way) for kind in Kind for way in Way if (kind, way) not in {*TAKEN, *REFUSED}]


@each(TAKEN)
async def test_good_credential_is_admitted_as_its_subject(
    wallet: Wallet, kind: Kind, way: Way
) -> None:
    relay, peer = wallet.relay, MeshPeer()
    mark = relay.audit()
    shown = wallet.shown(kind, State.GOOD, peer)
    async with knocking(relay.door(way), shown, peer=peer, port=PORT) as heard:
        assert heard == ""
        (record,) = mark.decisions(count=1)
        assert record["result"] == "allow"
        assert (record["transport"], record["method"]) == way.audited_as
        assert record["subject"] == wallet.subject(kind)
        assert record["credential"] == TABLE[kind].audited_as
        sessions = wallet.admin.tunnels()
        (session,) = [one for one in sessions if one["lease_id"] == record["lease_id"]]
        assert session["subject"] == wallet.subject(kind)


@each(pair for pair in TAKEN if pair[0] is not Kind.BOUND_TOKEN)
async def test_wrong_credential_is_refused(wallet: Wallet, kind: Kind, way: Way) -> None:
    await _is_refused(wallet, way, wallet.shown(kind, State.WRONG, MeshPeer()))


@each(pair for pair in TAKEN if pair[0] is Kind.BOUND_TOKEN)
async def test_token_of_another_peer_is_of_no_use(wallet: Wallet, kind: Kind, way: Way) -> None:
    """The gate knows whose token it is; that the peer is another one is seen in the handshake."""
    mark, peer = wallet.relay.audit(), MeshPeer()
    shown = wallet.shown(kind, State.WRONG, peer)
    async with knocking(wallet.relay.door(way), shown, peer=peer, port=PORT) as heard:
        assert heard == "ERROR UNAUTHENTICATED"
    (end,) = mark.records(count=1, event="tunnel_end")
    assert (end["reason"], end["subject"]) == ("denied", "guest")


@each(pair for pair in TAKEN if not TABLE[pair[0]].never_expires)
async def test_expired_credential_is_refused(wallet: Wallet, kind: Kind, way: Way) -> None:
    peer = MeshPeer()
    shown = wallet.shown(kind, State.EXPIRED, peer)
    if not TABLE[kind].expired_ends_handshake:
        await _is_refused(wallet, way, shown, reason=DenyReason.CREDENTIAL_EXPIRED, peer=peer)
        return
    mark = wallet.relay.audit()
    try:
        async with knocking(wallet.relay.door(way), shown, peer=peer, port=PORT) as heard:
            pass
    except ClientError as error:
        heard = "refused" if isinstance(error, TunnelRefused) else "ERROR NONE"
    assert heard == "ERROR NONE", "TLS says no, not the gate"
    await _is_refused(wallet, way, Bearer(token="nobody"))
    assert len(mark.records(count=1, event="decision")) == 1


@each(REFUSED)
async def test_credential_is_refused_where_it_is_not_safe(
    wallet: Wallet, kind: Kind, way: Way
) -> None:
    assert TABLE[kind].refused_because
    await _is_refused(wallet, way, wallet.shown(kind, State.GOOD, MeshPeer()))


async def _is_refused(
    wallet: Wallet,
    way: Way,
    shown: Shown,
    *,
    reason: DenyReason = DenyReason.CREDENTIAL_INVALID,
    peer: MeshPeer | None = None,
) -> None:
    mark = wallet.relay.audit()
    async with knocking(wallet.relay.door(way), shown, peer=peer, port=PORT) as heard:
        assert heard == heard_at(reason, way)
    (record,) = mark.decisions(count=1)
    assert (record["result"], record["reason"]) == ("deny", reason)
    assert (record["transport"], record["method"]) == way.audited_as


@each(TAKEN)
async def test_ways_make_the_values_that_they_take(kind: Kind, way: Way) -> None:
    """Or the next test would show nothing."""
    assert any(TABLE[kind].presented_as.__name__ + "(" in text for text in _sources_of(way))


@each(UNSAID)
async def test_other_ways_have_no_words_for_it(kind: Kind, way: Way) -> None:
    presented = TABLE[kind].presented_as
    assert UNSAYABLE[presented]
    assert not any(f"{presented.__name__}(" in text for text in _sources_of(way))


def _sources_of(way: Way) -> list[str]:
    places = [ROOT / place for place in modules_of(way)]
    paths = [
        path for place in places for path in ([place] if place.suffix else place.rglob("*.py"))
    ]
    return [path.read_text(encoding="utf-8") for path in paths]


async def test_every_kind_that_the_gate_knows_has_a_row() -> None:
    assert set(TABLE) == set(Kind)
    assert {row.audited_as for row in TABLE.values()} == set(CredentialKind)
    presented = {row.presented_as for row in TABLE.values()}
    assert presented == set(get_args(Credential)) - {MalformedCredential}
    assert not set(TAKEN) & set(REFUSED)

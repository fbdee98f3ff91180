"""Which key a STUN message must be signed with, and who that proves."""

import base64
import hashlib
import hmac
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest

from masque_relay.contract.address import Endpoint
from masque_relay.contract.errors import ConfigError
from masque_relay.contract.request import MessageIntegrity
from masque_relay.contract.verdict import Denial, DenyReason
from masque_relay.control.auth.basic import User, hash_password, load_users
from masque_relay.control.auth.bearer import load_bearer
from masque_relay.control.auth.principal import CredentialKind, Principal
from masque_relay.control.auth.turn import (
    AccessToken,
    StunAuthenticator,
    bearer_key,
    load_stun,
    mint_time_limited,
    open_access_token,
    seal_access_token,
    turn_keys,
)
from masque_relay.control.settings import StunSettings, TokenKeySettings
from tests.support.gates import NOW_S, GateBench

REALM = "relay.example"
SECRET = b"a shared secret of many bytes"
SOURCE = Endpoint(address=ip_address("192.0.2.1"), port=1)
MD5_KEY, SHA256_KEY = turn_keys("alice", REALM, "wonderland")
ALICE = User(name="alice", password_hash="x", groups=("staff",), turn_md5=MD5_KEY)


def proof(
    key: bytes,
    username: str | None = "alice",
    *,
    sha256: bool = False,
    user_hash: bytes | None = None,
    access_token: bytes | None = None,
    confidential: bool = False,
) -> MessageIntegrity:
    """A message that this key signed."""
    return MessageIntegrity(
        username=username,
        user_hash=user_hash,
        realm=REALM,
        uses_sha256=sha256,
        access_token=access_token,
        is_confidential=confidential,
        is_signed_by=lambda candidate: hmac.compare_digest(candidate, key),
    )


def authenticator(**changes: object) -> StunAuthenticator:
    settings = StunSettings(**changes)  # type: ignore[arg-type]  # fields by name
    return StunAuthenticator(settings, users={"alice": ALICE}, bearer=None, secrets_now=[SECRET])


async def outcome(
    checker: StunAuthenticator, credential: MessageIntegrity
) -> Principal | DenyReason:
    result = await checker.authenticate(credential, source=SOURCE, now_s=NOW_S)
    return result.reason if isinstance(result, Denial) else result


class TestUsers:
    async def test_the_users_key_proves_the_user_with_its_groups(self) -> None:
        checker = authenticator()
        principal = await outcome(checker, proof(MD5_KEY))
        assert isinstance(principal, Principal)
        assert (principal.subject, principal.groups) == ("alice", ("staff",))
        assert principal.method is CredentialKind.STUN
        assert checker.still_trusts(principal)

    async def test_another_key_proves_nobody(self) -> None:
        assert await outcome(authenticator(), proof(b"x")) is DenyReason.CREDENTIAL_INVALID

    async def test_a_user_without_the_wanted_digest_is_unknown(self) -> None:
        checker = authenticator()
        assert await outcome(checker, proof(MD5_KEY, sha256=True)) is DenyReason.CREDENTIAL_INVALID

    async def test_an_unknown_user_costs_one_check_too(self) -> None:
        asked: list[bytes] = []
        credential = replace(
            proof(b"", "nobody"), is_signed_by=lambda key: bool(asked.append(key)) or False
        )
        assert await outcome(authenticator(), credential) is DenyReason.CREDENTIAL_INVALID
        assert len(asked) == 1

    async def test_a_user_is_found_by_the_hash_of_its_name(self) -> None:
        user_hash = hashlib.sha256(f"alice:{REALM}".encode()).digest()
        principal = await outcome(authenticator(), proof(MD5_KEY, None, user_hash=user_hash))
        assert isinstance(principal, Principal)
        assert principal.subject == "alice"

    async def test_a_changed_key_is_no_longer_trusted(self) -> None:
        principal = await outcome(authenticator(), proof(MD5_KEY))
        assert isinstance(principal, Principal)
        other = replace(ALICE, turn_md5=bytes(16))
        after = StunAuthenticator(StunSettings(), users={"alice": other}, bearer=None)
        assert not after.still_trusts(principal)

    async def test_users_can_be_switched_off(self) -> None:
        checker = authenticator(users=False)
        assert await outcome(checker, proof(MD5_KEY)) is DenyReason.CREDENTIAL_INVALID

    async def test_an_account_that_has_ended_is_expired(self) -> None:
        users = {"alice": replace(ALICE, expires_s=NOW_S - 1)}
        checker = StunAuthenticator(StunSettings(), users=users, bearer=None)
        assert await outcome(checker, proof(MD5_KEY)) is DenyReason.CREDENTIAL_EXPIRED

    def test_the_users_file_holds_turn_keys(self, tmp_path: Path) -> None:
        path = tmp_path / "users.toml"
        path.write_text(
            f'[user.alice]\npassword_hash = "{hash_password("x")}"\n'
            f'turn_md5 = "{MD5_KEY.hex()}"\nturn_sha256 = "{SHA256_KEY.hex()}"\n'
        )
        assert load_users(path)["alice"].turn_sha256 == SHA256_KEY
        path.write_text(path.read_text().replace(MD5_KEY.hex(), "abc"))
        with pytest.raises(ConfigError, match="32 hexadecimal digits"):
            load_users(path)


class TestTimeLimited:
    def made(self, expires_in_s: int = 600, secret: bytes = SECRET) -> tuple[str, bytes, bytes]:
        credential = mint_time_limited(secret, subject="bob", expires_s=int(NOW_S) + expires_in_s)
        return credential.username, *turn_keys(credential.username, REALM, credential.password)

    async def test_a_minted_credential_proves_its_subject_until_it_expires(self) -> None:
        username, md5, sha256 = self.made()
        for credential in (proof(md5, username), proof(sha256, username, sha256=True)):
            principal = await outcome(authenticator(), credential)
            assert isinstance(principal, Principal)
            assert principal.subject == "bob"
            assert principal.expires_s == NOW_S + 600
            assert principal.token_id == f"turn:{username}"
            assert authenticator().still_trusts(principal)

    async def test_the_password_is_what_other_servers_expect(self) -> None:
        # printf 1700000600:bob | openssl dgst -sha1 -hmac SECRET -binary | base64
        made = mint_time_limited(b"north", subject="bob", expires_s=1_700_000_600)
        assert made.username == "1700000600:bob"
        assert made.password == "J8IP49Hz7aUcAstwXwJXfukSnsw="

    @pytest.mark.parametrize(
        ("expires_in_s", "reason"),
        [
            (-1, DenyReason.CREDENTIAL_EXPIRED),
            (0, DenyReason.CREDENTIAL_EXPIRED),
            (86_401, DenyReason.CREDENTIAL_INVALID),
        ],
    )
    async def test_it_is_good_neither_after_its_end_nor_for_too_long(
        self, expires_in_s: int, reason: DenyReason
    ) -> None:
        username, md5, _ = self.made(expires_in_s)
        assert await outcome(authenticator(), proof(md5, username)) is reason

    async def test_a_changed_expiry_breaks_the_key(self) -> None:
        username, md5, _ = self.made(-1)
        later = f"{int(NOW_S) + 600}:bob"
        assert username != later
        assert await outcome(authenticator(), proof(md5, later)) is DenyReason.CREDENTIAL_INVALID

    async def test_both_secrets_count_while_one_replaces_the_other(self) -> None:
        checker = StunAuthenticator(
            StunSettings(), users={}, bearer=None, secrets_now=[b"new" * 9, SECRET]
        )
        username, md5, _ = self.made()
        principal = await outcome(checker, proof(md5, username))
        assert isinstance(principal, Principal)
        gone = StunAuthenticator(StunSettings(), users={}, bearer=None, secrets_now=[b"new" * 9])
        assert not gone.still_trusts(principal)

    @pytest.mark.parametrize("username", ["1700000600", "1700000600:", ":bob", "bob:1700000600"])
    async def test_a_name_of_another_form_is_nobody(self, username: str) -> None:
        assert await outcome(authenticator(), proof(b"", username)) is DenyReason.CREDENTIAL_INVALID


class TestAccessTokens:
    KEY = bytes(range(32))
    TOKEN = AccessToken(mac_key=b"m" * 20, issued_s=NOW_S - 10, expires_s=NOW_S + 600)

    def checker(self) -> StunAuthenticator:
        return StunAuthenticator(
            StunSettings(), users={}, bearer=None, token_keys={"north": self.KEY}
        )

    async def test_the_key_inside_proves_the_party_that_shares_the_outer_key(self) -> None:
        sealed = seal_access_token(self.TOKEN, self.KEY, REALM)
        principal = await outcome(
            self.checker(), proof(self.TOKEN.mac_key, "north", access_token=sealed)
        )
        assert isinstance(principal, Principal)
        assert (principal.subject, principal.expires_s) == ("north", NOW_S + 600)
        assert self.checker().still_trusts(principal)

    @pytest.mark.parametrize(
        ("key", "server_name"), [(bytes(32), REALM), (bytes(range(32)), "other.example")]
    )
    async def test_a_token_for_another_key_or_server_is_nobody(
        self, key: bytes, server_name: str
    ) -> None:
        sealed = seal_access_token(self.TOKEN, key, server_name)
        credential = proof(self.TOKEN.mac_key, "north", access_token=sealed)
        assert await outcome(self.checker(), credential) is DenyReason.CREDENTIAL_INVALID

    async def test_an_old_token_is_expired(self) -> None:
        old = replace(self.TOKEN, issued_s=NOW_S - 700, expires_s=NOW_S - 100)
        sealed = seal_access_token(old, self.KEY, REALM)
        credential = proof(old.mac_key, "north", access_token=sealed)
        assert await outcome(self.checker(), credential) is DenyReason.CREDENTIAL_EXPIRED

    def test_a_token_of_coturns_tool_opens(self) -> None:
        # turnutils_oauth -e of coturn 4.6.1, with the example of its manual page.
        sealed = base64.b64decode(
            "AAyHiPeTaXafhvkAAABEfATJ7UgEhlCFp0l1QusWQv6Jeqo1If5czRSiSMM5dMAcO9mS6SErUVCJMUQ="
        )
        opened = open_access_token(
            sealed, b"12345678901234567890123456789012", "blackdow.carleon.gov"
        )
        assert opened is not None
        assert opened.mac_key == base64.b64decode("ZksjpweoixXmvn67534m")
        assert (opened.issued_s, opened.expires_s) == (1_410_984_813.0, 1_410_988_413.0)

    async def test_keys_that_replace_each_other_have_one_subject(self, tmp_path: Path) -> None:
        entries: list[TokenKeySettings] = []
        for kid in ("old", "new"):
            (tmp_path / kid).write_bytes(kid.encode().ljust(32))
            entries.append(TokenKeySettings(kid=kid, key_file=tmp_path / kid, subject="party"))
        checker = load_stun(StunSettings(token_keys=tuple(entries)), users={}, bearer=None)
        for kid in ("old", "new"):
            sealed = seal_access_token(self.TOKEN, kid.encode().ljust(32), REALM)
            principal = await outcome(checker, proof(self.TOKEN.mac_key, kid, access_token=sealed))
            assert isinstance(principal, Principal)
            assert principal.subject == "party"
            assert checker.still_trusts(principal)

    async def test_the_first_16_bytes_count_as_coturns_clients_have_it(self) -> None:
        sealed = seal_access_token(self.TOKEN, self.KEY, REALM)
        credential = proof(self.TOKEN.mac_key[:16], "north", access_token=sealed)
        assert isinstance(await outcome(self.checker(), credential), Principal)
        short = proof(self.TOKEN.mac_key[:15], "north", access_token=sealed)
        assert await outcome(self.checker(), short) is DenyReason.CREDENTIAL_INVALID

    @pytest.mark.parametrize("cut", range(0, 60, 7))
    def test_a_cut_token_is_none(self, cut: int) -> None:
        sealed = seal_access_token(self.TOKEN, self.KEY, REALM)
        assert open_access_token(sealed[:cut], self.KEY, REALM) is None


class TestBearer:
    @pytest.fixture
    def bench(self, tmp_path: Path) -> Iterator[GateBench]:
        bench = GateBench(tmp_path)
        yield bench
        bench.gate.close()

    def checker(self, bench: GateBench) -> StunAuthenticator:
        assert bench.settings.bearer is not None
        return StunAuthenticator(
            StunSettings(), users={}, bearer=load_bearer(bench.settings.bearer)
        )

    async def test_a_mesh_token_is_an_access_token_through_tls(self, bench: GateBench) -> None:
        token = bench.token()
        credential = proof(
            bearer_key(token), "anything", access_token=token.encode(), confidential=True
        )
        principal = await outcome(self.checker(bench), credential)
        assert isinstance(principal, Principal)
        assert (principal.subject, principal.method) == ("alice", CredentialKind.BEARER)

    async def test_a_mesh_token_is_its_own_password_through_tls(self, bench: GateBench) -> None:
        token = bench.token()
        key = turn_keys(token, REALM, token)[0]
        principal = await outcome(self.checker(bench), proof(key, token, confidential=True))
        assert isinstance(principal, Principal)
        assert principal.subject == "alice"

    async def test_neither_counts_where_others_can_read_it(self, bench: GateBench) -> None:
        token = bench.token()
        for credential in (
            proof(bearer_key(token), "x", access_token=token.encode()),
            proof(turn_keys(token, REALM, token)[0], token),
        ):
            assert await outcome(self.checker(bench), credential) is DenyReason.CREDENTIAL_INVALID


class TestFiles:
    def test_all_problems_are_told_at_once(self, tmp_path: Path) -> None:
        (tmp_path / "short").write_bytes(b"short")
        (tmp_path / "key").write_bytes(b"no key")
        settings = StunSettings(
            shared_secret_files=(tmp_path / "short", tmp_path / "absent"),
            token_keys=(TokenKeySettings(kid="", key_file=tmp_path / "key"),),
        )
        with pytest.raises(ConfigError) as caught:
            load_stun(settings, users={}, bearer=None)
        assert len(caught.value.problems) == 4

    def test_secrets_and_keys_are_read(self, tmp_path: Path) -> None:
        (tmp_path / "secret").write_bytes(SECRET + b"\n")
        (tmp_path / "key").write_text("AAECAwQFBgcICQoLDA0ODw==\n")
        settings = StunSettings(
            shared_secret_files=(tmp_path / "secret",),
            token_keys=(TokenKeySettings(kid="k", key_file=tmp_path / "key"),),
        )
        loaded = load_stun(settings, users={}, bearer=None)
        assert loaded._token_keys == {"k": bytes(range(16))}
        assert list(loaded._secrets.values()) == [SECRET]

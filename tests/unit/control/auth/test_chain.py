"""The first credential decides; what nobody checks is refused."""

from ipaddress import ip_address

import pytest

from masque_relay.contract.address import Endpoint
from masque_relay.contract.request import (
    BasicPassword,
    BearerToken,
    ClientCertificate,
    Credential,
    MalformedCredential,
    MessageIntegrity,
    Method,
    NodeKey,
    RelayRequest,
    Transport,
)
from masque_relay.contract.verdict import Denial, DenyReason
from masque_relay.control.auth.chain import AuthenticatorChain
from masque_relay.control.auth.principal import CredentialKind, Principal
from tests.support.gates import NOW_S

ALICE = Principal(subject="alice", method=CredentialKind.BEARER, key_id="k")
CREDENTIALS: tuple[Credential, ...] = (
    BearerToken(token="t"),
    BasicPassword(user="u", password="p"),
    ClientCertificate(chain_der=(b"x",)),
    MessageIntegrity(
        username="u",
        realm="r",
        uses_sha256=False,
        is_confidential=False,
        is_signed_by=lambda _: True,
    ),
    NodeKey(key=bytes(32)),
    MalformedCredential(scheme="bearer"),
)


class Accepting:
    """Accepts every credential, and trusts until told otherwise."""

    def __init__(self, *, trusts: bool = True) -> None:
        self.trusts = trusts

    async def authenticate(
        self, credential: Credential, *, source: Endpoint, now_s: float
    ) -> Principal | Denial:
        return ALICE

    def still_trusts(self, principal: Principal) -> bool:
        return self.trusts

    def recall(self, credential: NodeKey) -> Principal:
        return ALICE


def request(*credentials: Credential) -> RelayRequest:
    return RelayRequest(
        request_id="r",
        transport=Transport.HTTP3,
        method=Method.CONNECT_UDP,
        target=None,
        credentials=credentials,
        source=Endpoint(address=ip_address("192.0.2.1"), port=1),
    )


async def reason(chain: AuthenticatorChain, *credentials: Credential) -> DenyReason | None:
    result = await chain.authenticate(request(*credentials), now_s=NOW_S)
    return result.reason if isinstance(result, Denial) else None


async def test_no_credential_is_missing() -> None:
    assert await reason(AuthenticatorChain()) is DenyReason.CREDENTIAL_MISSING


@pytest.mark.parametrize("credential", CREDENTIALS, ids=lambda value: type(value).__name__)
async def test_a_kind_that_nobody_checks_is_invalid(credential: Credential) -> None:
    assert await reason(AuthenticatorChain(), credential) is DenyReason.CREDENTIAL_INVALID


@pytest.mark.parametrize("credential", CREDENTIALS[:-1], ids=lambda value: type(value).__name__)
async def test_each_kind_goes_to_its_own_authenticator(credential: Credential) -> None:
    chain = AuthenticatorChain(
        bearer=Accepting(),
        basic=Accepting(),
        mtls=Accepting(),
        stun=Accepting(),
        node_keys=Accepting(),
    )
    assert await reason(chain, credential) is None


async def test_a_bad_first_credential_is_not_made_good_by_a_second_one() -> None:
    chain = AuthenticatorChain(bearer=Accepting())
    malformed, bearer = CREDENTIALS[-1], CREDENTIALS[0]
    assert await reason(chain, malformed, bearer) is DenyReason.CREDENTIAL_INVALID
    assert await reason(chain, bearer, malformed) is None


def test_whose_node_key_it_is_is_known_where_node_keys_are_taken() -> None:
    who = AuthenticatorChain(node_keys=Accepting()).recall(NodeKey(key=bytes(32)))
    assert who is not None
    assert AuthenticatorChain(bearer=Accepting()).recall(NodeKey(key=bytes(32))) is None


@pytest.mark.parametrize("method", CredentialKind)
def test_trust_is_asked_of_the_kind_that_gave_it(method: CredentialKind) -> None:
    principal = Principal(subject="a", method=method, key_id="k")
    kinds = {kind.value: Accepting(trusts=kind is method) for kind in CredentialKind}
    chain = AuthenticatorChain(
        bearer=kinds["bearer"],
        basic=kinds["basic"],
        mtls=kinds["mtls"],
        stun=kinds["stun"],
        node_keys=kinds["node-key"],
    )
    assert chain.still_trusts(principal)
    assert not AuthenticatorChain().still_trusts(principal)

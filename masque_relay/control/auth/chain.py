"""Owns the chain: the first credential of a request decides, by the one who checks its kind."""

from typing import Protocol, TypeVar, assert_never

from masque_relay.contract.address import Endpoint
from masque_relay.contract.request import (
    BasicPassword,
    BearerToken,
    ClientCertificate,
    Credential,
    MalformedCredential,
    MessageIntegrity,
    NodeKey,
    RelayRequest,
)
from masque_relay.contract.verdict import Denial, DenyReason
from masque_relay.control.auth.principal import Authenticator, CredentialKind, Principal

_Presented = TypeVar("_Presented", bound=Credential)


class NodeKeyRegister(Authenticator[NodeKey], Protocol):
    """Checks node keys, and knows whose they are."""

    def recall(self, credential: NodeKey) -> Principal | None:
        """Return whose key it is, without a proof of it; None: nobody's."""
        ...


class AuthenticatorChain:
    """Hands a credential to whoever checks its kind; a kind that nobody checks is refused."""

    def __init__(
        self,
        *,
        bearer: Authenticator[BearerToken] | None = None,
        basic: Authenticator[BasicPassword] | None = None,
        mtls: Authenticator[ClientCertificate] | None = None,
        stun: Authenticator[MessageIntegrity] | None = None,
        node_keys: NodeKeyRegister | None = None,
    ) -> None:
        self._bearer = bearer
        self._basic = basic
        self._mtls = mtls
        self._stun = stun
        self._node_keys = node_keys

    async def authenticate(self, request: RelayRequest, *, now_s: float) -> Principal | Denial:
        """Return who asks, or why that is not known. Never raises for what a peer sent.

        A credential that fails is not made good by another one that follows it.
        """
        if not request.credentials:
            return Denial(reason=DenyReason.CREDENTIAL_MISSING, detail="no credential")
        return await self._check(request.credentials[0], request.source, now_s)

    def recall(self, credential: NodeKey) -> Principal | None:
        """Return whose node key it is, without a proof of it; None: nobody's."""
        return None if self._node_keys is None else self._node_keys.recall(credential)

    def still_trusts(self, principal: Principal) -> bool:
        """Return whether a reload left in place what the principal's trust rests on."""
        match principal.method:
            case CredentialKind.BEARER:
                return self._bearer is not None and self._bearer.still_trusts(principal)
            case CredentialKind.BASIC:
                return self._basic is not None and self._basic.still_trusts(principal)
            case CredentialKind.MTLS:
                return self._mtls is not None and self._mtls.still_trusts(principal)
            case CredentialKind.STUN:
                return self._stun is not None and self._stun.still_trusts(principal)
            case CredentialKind.NODE_KEY:
                return self._node_keys is not None and self._node_keys.still_trusts(principal)

    async def _check(
        self, credential: Credential, source: Endpoint, now_s: float
    ) -> Principal | Denial:
        match credential:
            case BearerToken():
                verdict = _ask(self._bearer, credential, source, now_s)
            case BasicPassword():
                verdict = _ask(self._basic, credential, source, now_s)
            case ClientCertificate():
                verdict = _ask(self._mtls, credential, source, now_s)
            case MessageIntegrity():
                verdict = _ask(self._stun, credential, source, now_s)
            case NodeKey():
                verdict = _ask(self._node_keys, credential, source, now_s)
            case MalformedCredential():
                return Denial(reason=DenyReason.CREDENTIAL_INVALID, detail="malformed credential")
            case _:
                assert_never(credential)
        return await verdict


async def _ask(
    authenticator: Authenticator[_Presented] | None,
    credential: _Presented,
    source: Endpoint,
    now_s: float,
) -> Principal | Denial:
    if authenticator is not None:
        return await authenticator.authenticate(credential, source=source, now_s=now_s)
    detail = f"{type(credential).__name__} is not accepted here"
    return Denial(reason=DenyReason.CREDENTIAL_INVALID, detail=detail)

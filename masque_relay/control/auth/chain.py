"""Owns the chain: the first credential of a request decides, by the one who checks its kind."""

from typing import assert_never

from masque_relay.contract.address import Endpoint
from masque_relay.contract.request import (
    BasicPassword,
    BearerToken,
    ClientCertificate,
    Credential,
    MalformedCredential,
    MessageIntegrity,
    RelayRequest,
)
from masque_relay.contract.verdict import Denial, DenyReason
from masque_relay.control.auth.principal import Authenticator, CredentialKind, Principal


class AuthenticatorChain:
    """Hands a credential to whoever checks its kind; a kind that nobody checks is refused."""

    def __init__(
        self,
        *,
        bearer: Authenticator[BearerToken] | None = None,
        basic: Authenticator[BasicPassword] | None = None,
        mtls: Authenticator[ClientCertificate] | None = None,
        stun: Authenticator[MessageIntegrity] | None = None,
    ) -> None:
        self._bearer = bearer
        self._basic = basic
        self._mtls = mtls
        self._stun = stun

    async def authenticate(self, request: RelayRequest, *, now_s: float) -> Principal | Denial:
        """Return who asks, or why that is not known. Never raises for what a peer sent.

        A credential that fails is not made good by another one that follows it.
        """
        if not request.credentials:
            return Denial(reason=DenyReason.CREDENTIAL_MISSING, detail="no credential")
        return await self._check(request.credentials[0], request.source, now_s)

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

    async def _check(
        self, credential: Credential, source: Endpoint, now_s: float
    ) -> Principal | Denial:
        match credential:
            case BearerToken():
                if self._bearer is not None:
                    return await self._bearer.authenticate(credential, source=source, now_s=now_s)
            case BasicPassword():
                if self._basic is not None:
                    return await self._basic.authenticate(credential, source=source, now_s=now_s)
            case ClientCertificate():
                if self._mtls is not None:
                    return await self._mtls.authenticate(credential, source=source, now_s=now_s)
            case MessageIntegrity():
                if self._stun is not None:
                    return await self._stun.authenticate(credential, source=source, now_s=now_s)
            case MalformedCredential():
                return Denial(reason=DenyReason.CREDENTIAL_INVALID, detail="malformed credential")
            case _:
                assert_never(credential)
        detail = f"{type(credential).__name__} is not accepted here"
        return Denial(reason=DenyReason.CREDENTIAL_INVALID, detail=detail)

"""Owns Principal: who a credential proved to be; and the port of everything that proves it."""

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, TypeVar

from masque_relay.contract.address import Endpoint
from masque_relay.contract.request import Credential
from masque_relay.contract.verdict import Denial

MAX_SUBJECT_CHARACTERS = 256  # fits an e-mail address (254) or a SPIFFE id of ordinary length
MAX_GROUPS = 128  # bounds the work of a policy decision on a hostile issuer's token

_UNPRESENTABLE = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u2028\u2029"
    r"\u200e\u200f\u202a-\u202e\u2066-\u2069"  # turn what follows round: another name is shown
    r"\ud800-\udfff]"  # half of a pair: no UTF-8, so neither a list nor a revocation could name it
)


class CredentialKind(StrEnum):
    """How somebody proved who they are. The values are audit words."""

    BEARER = "bearer"
    BASIC = "basic"
    MTLS = "mtls"
    STUN = "stun"
    """A long-term, time-limited or third-party key over STUN messages."""
    NODE_KEY = "node-key"
    """The key of a DERP client."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """Somebody whose credential was checked."""

    subject: str
    groups: tuple[str, ...] = ()
    """As the credential names them, not yet the policy's groups."""
    token_id: str | None = None
    """``jti`` of a token, ``cert:`` and a digest of a certificate; None for a password."""
    expires_s: float | None = None
    """Seconds since the epoch; no lease outlives it. None: the credential does not expire."""
    peer_id: bytes | None = None
    """The Ed25519 public key that the credential is bound to (``cnf``, RFC 7800)."""
    method: CredentialKind
    key_id: str
    """What the trust rests on: a digest of the key, the CA or the password hash. When a reload
    removes that, the principal's tunnels end."""


Presented_contra = TypeVar("Presented_contra", bound=Credential, contravariant=True)


class Authenticator(Protocol[Presented_contra]):
    """Checks one kind of credential."""

    async def authenticate(
        self, credential: Presented_contra, *, source: Endpoint, now_s: float
    ) -> Principal | Denial:
        """Return who it is, or why not. Never raises for what a peer sent."""
        ...

    def still_trusts(self, principal: Principal) -> bool:
        """Return whether what the principal's trust rests on is still there after a reload."""
        ...


def is_presentable(text: str) -> bool:
    """Return whether a subject or group is short and can be shown as what it is."""
    return 0 < len(text) <= MAX_SUBJECT_CHARACTERS and not _UNPRESENTABLE.search(text)

"""Owns the gate's settings: frozen values that config.py fills in and build_gate reads."""

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuerSettings:
    """One party whose tokens count, and the keys with which it may sign. Keys are not shared."""

    issuer: str
    """The exact ``iss`` of its tokens."""
    key_files: tuple[Path, ...] = ()
    """PEM public keys (SubjectPublicKeyInfo): Ed25519, P-256 or RSA of at least 2048 bits."""
    jwks_files: tuple[Path, ...] = ()
    """JWK sets (RFC 7517) of public keys."""
    hs256_secret_file: Path | None = None
    """A shared secret of at least 32 bytes. HS256 is refused unless this is set."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BearerSettings:
    """JWT bearer tokens."""

    issuers: tuple[IssuerSettings, ...]
    """At least one."""
    audiences: tuple[str, ...]
    """At least one; a token must name one of them in ``aud``."""
    leeway_s: float = 30.0
    """Clock difference allowed for ``nbf`` and ``iat``. ``exp`` is strict, because the tunnel ends
    then."""
    groups_claim: str | None = "groups"
    """The claim that lists the groups of the subject; empty or None: no claim does."""
    max_token_bytes: int = 8192
    """Bounds the work on unauthenticated bytes; real tokens are under 2 KiB."""
    max_lifetime_s: float | None = None
    """Refuse tokens that are valid for longer than this from now on; None accepts any."""
    cache_tokens: int = 4096
    """Verified tokens remembered by SHA-256 until they expire; saves a signature check each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BasicSettings:
    """User names and passwords (RFC 7617)."""

    users_file: Path
    """TOML: ``[user.alice]`` with ``password_hash`` (argon2id) and ``groups``."""
    verify_timeout_s: float = 5.0
    """From the wish to verify to its answer; an argon2 check takes about 50 ms of one core."""
    max_pending: int = 32
    """Checks that wait or run, in all; the next one is refused as overloaded."""
    max_pending_per_source: int = 4
    """From one address (IPv6: one /64), so that one guesser can't keep the others out."""
    failure_burst: int = 20
    """Wrong passwords from one address (IPv6: one /64) in a row; then they are refused unchecked
    until some time has passed. Whoever is remembered is not affected."""
    failures_per_s: float = 0.2
    """How fast that allowance comes back."""
    cache_ttl_s: float = 300.0
    """How long a success is remembered; a removed user is out at the reload all the same."""
    cache_entries: int = 1024
    """Successes remembered; the oldest is forgotten first."""


class SubjectField(StrEnum):
    """Where a client certificate names its subject."""

    SAN_URI = "san-uri"
    SAN_EMAIL = "san-email"
    SAN_DNS = "san-dns"
    COMMON_NAME = "cn"


@dataclass(frozen=True, slots=True, kw_only=True)
class MtlsSettings:
    """Client certificates."""

    ca_files: tuple[Path, ...]
    """PEM bundles of the CAs that may issue client certificates."""
    subject_fields: tuple[SubjectField, ...] = (
        SubjectField.SAN_URI,
        SubjectField.SAN_EMAIL,
        SubjectField.SAN_DNS,
        SubjectField.COMMON_NAME,
    )
    """The first field that is present names the subject; it must be there exactly once."""
    max_chain_certificates: int = 6
    """Bounds the work per handshake; real chains have two or three."""
    max_certificate_bytes: int = 16_384
    """Bounds the same in bytes; real certificates are under 4 KiB."""
    cache_entries: int = 1024
    """Verified chains remembered for at most a minute."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenKeySettings:
    """A key that is shared with a party whose access tokens count (RFC 7635)."""

    kid: str
    """Its name; a client sends it as its user name."""
    key_file: Path
    """16 or 32 bytes for AES-GCM, as they are or in base64."""
    subject: str = ""
    """Whom the policy sees; empty: the kid. Keys that replace each other have the same subject."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StunSettings:
    """Credentials of STUN and TURN clients: keys over messages (RFC 8489 section 9.2)."""

    shared_secret_files: tuple[Path, ...] = ()
    """Secrets for time-limited credentials (``expiry:subject`` and its HMAC, as `ghostctl token
    turn` makes them); several while one replaces another. At least 16 bytes each."""
    max_lifetime_s: float = 86_400.0
    """Time-limited credentials that are good for longer than this from now on are refused."""
    users: bool = True
    """Take the users of `[gate.basic]` that have TURN keys (`ghostctl token turn-key`)."""
    bearer: bool = True
    """Take bearer tokens as user name or access token, but only through TLS: on a plain transport
    everybody on the way would read them."""
    token_keys: tuple[TokenKeySettings, ...] = ()
    """Keys of third parties that hand out access tokens."""
    server_name: str = ""
    """What those tokens are bound to (THIRD-PARTY-AUTHORIZATION); empty: the realm."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeKeySettings:
    """Node keys of DERP clients. The list is asked first, then the verifier."""

    file: Path | None = None
    """TOML: ``[node.laptop]`` with ``key = "nodekey:…"`` and ``groups``; ``laptop`` is the
    subject."""
    verifier_url: str | None = None
    """Is asked about other keys: an HTTP POST as derper's ``--verify-client-url``. Who it allows
    has the key's text as subject."""
    verifier_groups: tuple[str, ...] = ()
    """Groups of those."""
    verifier_timeout_s: float = 5.0
    """From the question to the whole answer."""
    verifier_max_pending: int = 64
    """Questions under way; the next client is told to come again."""
    allow_when_verifier_fails: bool = False
    """Let clients in while the verifier does not answer, as derper does unless told otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GateLimits:
    """What the gate allows whatever the policy says."""

    max_tunnels: int = 20_000
    """In the process, all transports together; bounds memory and file descriptors."""
    tunnels_per_subject: int = 1024
    """Rules may say less. Enough for one busy host, a twentieth of the relay."""
    opens_per_s: float = 50.0
    """Sustained rate of requests of one authenticated subject, allowed or not."""
    open_burst: int = 500
    """A browser or a port forwarder opens its tunnels at once when it starts."""
    tracked_subjects: int = 16_384
    """Subjects whose rate is remembered; the longest unseen is forgotten first."""
    revocations: int = 50_000
    """Entries in the revocation list; a full list refuses new ones loudly."""
    revocation_keep_s: float = 31 * 86_400.0
    """How long a token id stays on the list when its expiry is unknown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GateSettings:
    """All of the gate. At least one of bearer, basic, mtls, stun and node_keys must be set."""

    policy_file: Path
    """TOML: groups, rules and their tests; docs/reference/policy.md."""
    bearer: BearerSettings | None = None
    basic: BasicSettings | None = None
    mtls: MtlsSettings | None = None
    stun: StunSettings | None = None
    node_keys: NodeKeySettings | None = None
    revocations_file: Path | None = None
    """Where revocations survive a restart; None keeps them in memory only."""
    recheck_tunnels: bool = True
    """After a reload, end the tunnels that the new policy refuses."""
    limits: GateLimits = field(default_factory=GateLimits)


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditSettings:
    """Where the audit trail goes."""

    file: Path | None = None
    """None writes to standard output."""
    max_file_bytes: int = 64 * 1024 * 1024
    """The file is rotated before it grows beyond this."""
    keep_files: int = 5
    """Rotated files kept: ``audit.jsonl.1`` is the newest."""
    queue_records: int = 8192
    """Records that wait for the writer thread; more are dropped and counted."""

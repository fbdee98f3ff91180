"""Owns the development state directory: everything a relay needs, made on the first start."""

import os
import secrets
import time
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from masque_relay.config.dev_pki import (
    certificate_pem,
    is_fresh,
    key_pem,
    make_ca,
    make_leaf,
    new_key,
)
from masque_relay.contract.errors import ConfigError, Problem
from masque_relay.control.auth.keys import generate_signing_key, load_signing_key, write_signing_key
from masque_relay.control.auth.tokens import issue_token, read_token

DEV_SUBJECT = "dev"
DEV_ISSUER = "ghostwire-dev"
DEV_AUDIENCE = "ghostwire-dev"
TOKEN_LIFETIME_S = 30 * 86_400.0
TOKEN_RENEW_BEFORE_S = 86_400.0
QUIC_SECRET_BYTES = 32

_CONFIG = """\
# Written by `ghostctl relay run --dev` on its first start; yours to edit, it is never overwritten.
# Every key: docs/reference/config.md

[listen]
h3 = "127.0.0.1:4433"
secret_files = ["quic-secret"]

[tls]
certificate_file = "cert.pem"
key_file = "key.pem"

[connect_udp.bind]
enabled = true
addresses = ["127.0.0.1"]

[gate]
policy_file = "policy.toml"

[gate.bearer]
audiences = ["ghostwire-dev"]

[[gate.bearer.issuers]]
issuer = "ghostwire-dev"
key_files = ["signing.pub.pem"]

[audit]
file = "audit.jsonl"

[admin]
listen = "127.0.0.1:9443"
token_file = "admin-token"

[ghostwire]
enabled = true
# FOR DEVELOPMENT ONLY: the dev token is bound to no peer's key, so its holder may be any peer.
limits = { require_bound_key = false }

[log]
format = "console"

[drain]
deadline_s = 5
"""

_POLICY = """\
# Written by `ghostctl relay run --dev` on its first start; yours to edit, it is never overwritten.
# Try it: ghostctl policy check policy.toml

# FOR DEVELOPMENT ONLY: a rule that names loopback addresses lifts their protection. With it,
# whoever holds the dev token reaches every UDP and TCP service of this very host.
[[rule]]
name = "dev-loopback"
action = "allow"
who = ["dev"]
methods = ["connect-udp", "connect-tcp", "bind-udp"]
targets = ["127.0.0.0/8:*", "[::1/128]:*", "localhost:*"]

[[rule]]
name = "dev-internet"
action = "allow"
who = ["dev"]
methods = ["connect-udp", "connect-tcp", "bind-udp"]
targets = ["*:*"]

# The mesh: who may come in, and whom they may call.
[[rule]]
name = "dev-mesh"
action = "allow"
who = ["dev"]
methods = ["ghostwire"]
targets = ["*"]
peers = ["*"]

[[test]]
as = "dev"
method = "connect-udp"
target = "127.0.0.1:53"
expect = "allow"
rule = "dev-loopback"

[[test]]
as = "dev"
method = "connect-udp"
target = "169.254.169.254:80"
expect = "deny"

[[test]]
as = "dev"
method = "connect-tcp"
target = "127.0.0.1:8080"
expect = "allow"
rule = "dev-loopback"

[[test]]
as = "dev"
method = "connect-tcp"
target = "169.254.169.254:80"
expect = "deny"

[[test]]
as = "mallory"
method = "connect-udp"
target = "127.0.0.1:53"
expect = "deny"
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class DevState:
    """The files of a development relay."""

    directory: Path

    @property
    def config_file(self) -> Path:
        """The relay's configuration."""
        return self.directory / "relay.toml"

    @property
    def policy_file(self) -> Path:
        """The policy that it names."""
        return self.directory / "policy.toml"

    @property
    def ca_file(self) -> Path:
        """What clients trust."""
        return self.directory / "ca.pem"

    @property
    def ca_key_file(self) -> Path:
        """The CA's private key."""
        return self.directory / "ca.key.pem"

    @property
    def certificate_file(self) -> Path:
        """The relay's certificate."""
        return self.directory / "cert.pem"

    @property
    def key_file(self) -> Path:
        """The relay's private key."""
        return self.directory / "key.pem"

    @property
    def signing_key_file(self) -> Path:
        """What `ghostctl token issue --key` takes."""
        return self.directory / "signing.key.pem"

    @property
    def token_file(self) -> Path:
        """A token of the subject ``dev``."""
        return self.directory / "token"

    @property
    def admin_token_file(self) -> Path:
        """The bearer token of the admin API."""
        return self.directory / "admin-token"

    @property
    def quic_secret_file(self) -> Path:
        """Keeps stateless resets valid over a restart, so that clients learn of it at once."""
        return self.directory / "quic-secret"

    @property
    def admin_url_file(self) -> Path:
        """Where the admin API is, while a relay runs on this state."""
        return self.directory / "admin-url"


def prepare_dev_state(directory: Path, *, now_s: float | None = None) -> DevState:
    """Make what is missing or about to expire in the directory; leave the rest as it is.

    Raises:
        ConfigError: the directory can't be used, or a file in it is not what we wrote.
    """
    now_s = time.time() if now_s is None else now_s
    state = DevState(directory=directory.absolute())
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        _prepare_certificates(state)
        _prepare_token(state, now_s)
        if not state.admin_token_file.exists():
            _write(state.admin_token_file, secrets.token_urlsafe(32).encode() + b"\n", 0o600)
        if not state.quic_secret_file.exists():
            _write(state.quic_secret_file, secrets.token_bytes(QUIC_SECRET_BYTES), 0o600)
        for path, text in ((state.policy_file, _POLICY), (state.config_file, _CONFIG)):
            if not path.exists():
                _write(path, text.encode(), 0o644)
    except OSError as error:
        raise ConfigError(
            [
                Problem(
                    file=str(error.filename or directory),
                    detail=f"the state directory can't be used: {error.strerror}",
                    hint="name another one with --state-dir",
                )
            ]
        ) from error
    return state


def _prepare_certificates(state: DevState) -> None:
    if state.ca_file.exists() and state.ca_key_file.exists():
        ca, ca_key = _read_pair(state.ca_file, state.ca_key_file)
    else:
        ca_key = new_key()
        ca = make_ca(ca_key)
        _write(state.ca_key_file, key_pem(ca_key), 0o600)
        _write(state.ca_file, certificate_pem(ca), 0o644)
    if state.certificate_file.exists() and state.key_file.exists():
        leaf, _ = _read_pair(state.certificate_file, state.key_file)
        if is_fresh(leaf):
            return
    leaf_key = new_key()
    _write(state.key_file, key_pem(leaf_key), 0o600)
    _write(state.certificate_file, certificate_pem(make_leaf(leaf_key, ca, ca_key)), 0o644)


def _prepare_token(state: DevState, now_s: float) -> None:
    if state.signing_key_file.exists():
        key = load_signing_key(state.signing_key_file)
    else:
        key = generate_signing_key()
        write_signing_key(key, state.directory)
        state.token_file.unlink(missing_ok=True)
    if state.token_file.exists() and _token_is_fresh(state.token_file, now_s):
        return
    token = issue_token(
        key,
        subject=DEV_SUBJECT,
        audience=DEV_AUDIENCE,
        issuer=DEV_ISSUER,
        lifetime_s=TOKEN_LIFETIME_S,
        now_s=now_s,
    )
    _write(state.token_file, token.encode() + b"\n", 0o600)


def _token_is_fresh(path: Path, now_s: float) -> bool:
    try:
        expiry_s = read_token(path.read_text(encoding="ascii").strip()).claims.get("exp")
    except ValueError:
        return False
    return isinstance(expiry_s, int | float) and expiry_s > now_s + TOKEN_RENEW_BEFORE_S


def _read_pair(
    certificate_file: Path, key_file: Path
) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    try:
        certificate = x509.load_pem_x509_certificate(certificate_file.read_bytes())
        key = load_pem_private_key(key_file.read_bytes(), password=None)
        if certificate.public_key() != key.public_key():
            raise ValueError("the key is not the certificate's")
    except ValueError as error:
        raise ConfigError(
            [
                Problem(
                    file=str(certificate_file),
                    detail=f"can't be used with {key_file.name}: {error}",
                    hint="remove both to have new ones made",
                )
            ]
        ) from error
    return certificate, cast("ec.EllipticCurvePrivateKey", key)


def _write(path: Path, data: bytes, mode: int) -> None:
    """Write a file as a whole or not at all; a secret is never readable by others in between."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.new")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
    temporary.replace(path)

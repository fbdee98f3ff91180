"""Owns the client's credentials: where they come from and the header or certificate they become.

No credential is ever part of a URL, an error message or a ``repr``.
"""

from base64 import b64encode
from dataclasses import dataclass, field
from pathlib import Path

from masque_relay.client.errors import CredentialError
from masque_relay.client.socks import Login

MAX_CREDENTIAL_BYTES = 16_384  # a token of this size would not fit the relay's request head anyway


@dataclass(frozen=True, slots=True, kw_only=True)
class Bearer:
    """A bearer token (RFC 6750): a value, or a file that is read again at every reconnect."""

    token: str | None = field(default=None, repr=False)
    file: Path | None = None
    """Read before each connection, so that a renewed token is picked up without a restart."""

    def authorization(self) -> bytes:
        """Return the value of the ``authorization`` header.

        Raises:
            CredentialError: no token, an unreadable file, or characters that no token has.
        """
        token = self.token if self.file is None else _read(self.file, "token")
        token = (token or "").strip()
        if not token or not token.isascii() or any(character <= " " for character in token):
            raise CredentialError(
                f"{_origin(self.file)} holds no bearer token",
                hint="it must hold one token and nothing else; `ghostctl token issue` prints one",
            )
        return b"Bearer " + token.encode("ascii")


@dataclass(frozen=True, slots=True, kw_only=True)
class Basic:
    """A user name and a password (RFC 7617): values, or a file that holds ``user:password``."""

    user: str | None = None
    password: str | None = field(default=None, repr=False)
    file: Path | None = None
    """Read before each connection."""

    def authorization(self) -> bytes:
        """Return the value of the ``authorization`` header.

        Raises:
            CredentialError: no user, an unreadable file, or a file without a colon.
        """
        if self.file is not None:
            text = _read(self.file, "Basic").strip("\r\n")
            user, separator, password = text.partition(":")
        else:
            user, separator, password = self.user or "", ":", self.password or ""
        if not user or not separator or ":" in user or "\n" in password:
            raise CredentialError(
                f"{_origin(self.file)} holds no user and password",
                hint="it must hold one line, user:password",
            )
        return b"Basic " + b64encode(f"{user}:{password}".encode())


@dataclass(frozen=True, slots=True, kw_only=True)
class MutualTls:
    """A client certificate (PEM, with its chain) and its private key, shown in the handshake."""

    certificate_file: Path
    key_file: Path

    def check(self) -> None:
        """Make sure that both files can be read.

        Raises:
            CredentialError: one of them cannot.
        """
        for path in (self.certificate_file, self.key_file):
            _read(path, "PEM")


Credential = Bearer | Basic | MutualTls


def authorization_of(credential: Credential | None) -> bytes | None:
    """Return the ``authorization`` value of a credential, or None where there is none to send.

    Raises:
        CredentialError: a file is absent, unreadable or malformed.
    """
    if isinstance(credential, Bearer | Basic):
        return credential.authorization()
    if credential is not None:
        credential.check()
    return None


def read_login(file: Path) -> Login:
    """Return what programs must give to the local proxy: a file with one line, ``user:password``.

    Raises:
        CredentialError: an unreadable file, no colon, or parts that SOCKS5 cannot carry.
    """
    user, separator, password = _read(file, "user").strip("\r\n").partition(":")
    parts_bytes = (len(user.encode()), len(password.encode()))
    # RFC 1929 section 2: each is 1 to 255 bytes
    if not separator or "\n" in password or not all(1 <= size <= 255 for size in parts_bytes):
        raise CredentialError(
            f"{file} holds no user and password for the local proxy",
            hint="it must hold one line, user:password, each of 1 to 255 bytes",
        )
    return Login(user=user, password=password)


def _read(path: Path, kind: str) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_CREDENTIAL_BYTES + 1)
    except OSError as error:
        raise CredentialError(
            f"cannot read the {kind} file {path}: {error.strerror}",
            hint="check the path and who may read it",
        ) from error
    if len(content) > MAX_CREDENTIAL_BYTES:
        raise CredentialError(f"the {kind} file {path} is larger than any credential")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise CredentialError(f"the {kind} file {path} is not text") from error


def _origin(file: Path | None) -> str:
    return "the credential" if file is None else str(file)

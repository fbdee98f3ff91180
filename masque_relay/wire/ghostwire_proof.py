"""Owns the bytes that a Ghostwire peer signs: the proof of identity, and its candidate record."""

import hashlib
from dataclasses import dataclass

from masque_relay.wire.ghostwire import Binding
from masque_relay.wire.octets import OctetReader
from masque_relay.wire.peer_id import PEER_ID_BYTES

EXPORTER_LABEL = "EXPORTER-ghostwire-peer"
EXPORTER_BYTES = 32

MAX_CANDIDATES = 16
CANDIDATE_LIFETIME_S = 3_600
"""An older record is of a network that the peer has left."""

_PEER_PURPOSE = b" " * 64 + b"Ghostwire peer authentication\x00"
_CANDIDATES_PURPOSE = b" " * 64 + b"Ghostwire candidates\x00"
_RECORD_VERSION = 1
_SECTION = "ghostwire: Direct paths"
_MAX_KIND = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One address where a peer might be reached."""

    kind: int
    """0 own address, 1 seen by a relay, 2 configured."""
    address: bytes
    """4 or 16 bytes."""
    port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidateRecord:
    """Where a peer might be reached, as it signs it."""

    peer_id: bytes
    sequence: int
    expires_s: int
    candidates: tuple[Candidate, ...]

    def encode(self) -> bytes:
        """Return the record's bytes.

        Raises:
            ValueError: more than 16 candidates; a bug of the caller.
        """
        if len(self.candidates) > MAX_CANDIDATES:
            message = f"{len(self.candidates)} candidates, at most {MAX_CANDIDATES}"
            raise ValueError(message)
        head = b"".join(
            (
                bytes((_RECORD_VERSION,)),
                self.peer_id,
                self.sequence.to_bytes(8, "big"),
                self.expires_s.to_bytes(8, "big"),
                bytes((len(self.candidates),)),
            )
        )
        return head + b"".join(
            bytes((one.kind, 4 if len(one.address) == 4 else 6))
            + one.address
            + one.port.to_bytes(2, "big")
            for one in self.candidates
        )

    @classmethod
    def decode(cls, data: bytes) -> "CandidateRecord":
        """Return the record; whoever uses it checks the signature and the expiry first.

        Raises:
            WireError: the bytes are no record.
        """
        reader = OctetReader(data, section=_SECTION)
        version = reader.uint(1)
        if version != _RECORD_VERSION:
            raise reader.error(f"record version {version}")
        peer_id, sequence, expires_s = reader.take(PEER_ID_BYTES), reader.uint(8), reader.uint(8)
        count = reader.uint(1)
        if count > MAX_CANDIDATES:
            raise reader.error(f"{count} candidates")
        candidates = tuple(_read_candidate(reader) for _ in range(count))
        reader.finish()
        return cls(peer_id=peer_id, sequence=sequence, expires_s=expires_s, candidates=candidates)


def peer_proof(*, version: int, binding: Binding, channel_value: bytes) -> bytes:
    """Return the bytes that AUTH's signature is over."""
    return _PEER_PURPOSE + bytes((version, binding)) + channel_value


def challenge_value(
    *, relay_nonce: bytes, peer_nonce: bytes, peer_id: bytes, relay_name: str
) -> bytes:
    """Return the channel value of binding 2. The name is the URL's host, without a port."""
    name = relay_name.lower().encode("ascii")
    length = len(name).to_bytes(1, "big")
    return hashlib.sha256(relay_nonce + peer_nonce + peer_id + length + name).digest()


def signed_record(record: bytes) -> bytes:
    """Return the bytes that the signature of a candidate record is over."""
    return _CANDIDATES_PURPOSE + record


def _read_candidate(reader: OctetReader) -> Candidate:
    kind, family = reader.uint(1), reader.uint(1)
    if kind > _MAX_KIND or family not in {4, 6}:
        raise reader.error(f"candidate kind {kind}, family {family}")
    return Candidate(kind=kind, address=reader.take(4 if family == 4 else 16), port=reader.uint(2))

"""What a Ghostwire peer signs."""

import pytest

from masque_relay.wire.errors import WireError
from masque_relay.wire.ghostwire import Binding
from masque_relay.wire.ghostwire_proof import (
    Candidate,
    CandidateRecord,
    challenge_value,
    peer_proof,
    signed_record,
)

KEY = bytes(range(32))
RECORD = CandidateRecord(
    peer_id=KEY,
    sequence=9,
    expires_s=1_800_000_000,
    candidates=(
        Candidate(kind=0, address=bytes(4), port=1),
        Candidate(kind=1, address=bytes(16), port=65_535),
    ),
)


def test_record_comes_back() -> None:
    assert CandidateRecord.decode(RECORD.encode()) == RECORD


def test_every_shorter_record_is_refused() -> None:
    data = RECORD.encode()
    for end in range(len(data)):
        with pytest.raises(WireError):
            CandidateRecord.decode(data[:end])


@pytest.mark.parametrize(
    ("offset", "value"),
    [(0, 2), (49, 17), (50, 3), (51, 5)],
    ids=["version", "count", "kind", "family"],
)
def test_record_with_a_number_out_of_range_is_refused(offset: int, value: int) -> None:
    data = bytearray(RECORD.encode())
    data[offset] = value

    with pytest.raises(WireError):
        CandidateRecord.decode(bytes(data))


def test_seventeen_candidates_are_the_callers_bug() -> None:
    many = CandidateRecord(
        peer_id=KEY, sequence=1, expires_s=1, candidates=RECORD.candidates[:1] * 17
    )
    with pytest.raises(ValueError, match="17 candidates"):
        many.encode()


def test_signed_bytes_differ_by_everything_that_must_not_be_swapped() -> None:
    def value(**changes: object) -> bytes:
        arguments = {
            "relay_nonce": bytes(32),
            "peer_nonce": bytes(16),
            "peer_id": KEY,
            "relay_name": "relay.example",
        } | changes
        return challenge_value(**arguments)  # type: ignore[arg-type]

    values = {
        value(),
        value(relay_nonce=b"1" * 32),
        value(peer_nonce=b"1" * 16),
        value(peer_id=KEY[::-1]),
        value(relay_name="other.example"),
    }
    assert len(values) == 5
    assert value(relay_name="Relay.EXAMPLE") == value()

    proofs = {
        peer_proof(version=1, binding=Binding.EXPORTER, channel_value=bytes(32)),
        peer_proof(version=1, binding=Binding.CHALLENGE, channel_value=bytes(32)),
        peer_proof(version=2, binding=Binding.EXPORTER, channel_value=bytes(32)),
        signed_record(bytes(34)),
    }
    assert len(proofs) == 4

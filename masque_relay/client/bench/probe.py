"""Owns the datagrams of the benchmark: what a question and its answer look like."""

from collections.abc import Iterable

MAGIC = b"GWbench1"
QUESTION = MAGIC + b"?"
ANSWER = MAGIC + b"!"
NONCE_BYTES = 8
_SEQUENCE_BYTES = 8
_HEAD_BYTES = len(QUESTION) + NONCE_BYTES
MIN_PROBE_BYTES = _HEAD_BYTES + _SEQUENCE_BYTES


def answer_to(datagram: bytes) -> bytes | None:
    """Return the answer to a question, which is as long as it; None for anything else.

    An answer has no answer: two echoes that somebody points at each other fall silent at once.
    """
    if len(datagram) < MIN_PROBE_BYTES or not datagram.startswith(QUESTION):
        return None
    return ANSWER + datagram[len(QUESTION) :]


class Probes:
    """The questions of one measurement on one path, all of one size.

    Args:
        size_bytes: of every question; at least MIN_PROBE_BYTES.
        nonce: NONCE_BYTES that nobody else uses: only what has them is an answer to these.
    """

    __slots__ = ("_heads", "_padding", "_question", "_size_bytes")

    def __init__(self, size_bytes: int, nonce: bytes) -> None:
        self._size_bytes = size_bytes
        self._question = QUESTION + nonce
        # A plain UDP echo sends the question back as it is; that will do.
        self._heads = (ANSWER + nonce, self._question)
        self._padding = bytes(size_bytes - MIN_PROBE_BYTES)

    def question(self, sequence: int) -> bytes:
        """Return one question."""
        return self._question + sequence.to_bytes(_SEQUENCE_BYTES, "big") + self._padding

    def answered(self, payloads: Iterable[bytes]) -> list[int]:
        """Return the sequence numbers of those payloads that are whole answers."""
        return [
            int.from_bytes(payload[_HEAD_BYTES:MIN_PROBE_BYTES], "big")
            for payload in payloads
            if len(payload) == self._size_bytes and payload.startswith(self._heads)
        ]

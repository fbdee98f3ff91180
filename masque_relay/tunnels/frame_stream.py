"""Owns FrameStream: the bytes of a reliable stream as frames for a session."""

from masque_relay.contract.ghostwire import FrameSession
from masque_relay.wire.capsule import CapsuleDecoder
from masque_relay.wire.ghostwire import FRAME_TYPES, MAX_FRAME_BYTES, FrameType


class FrameStream:
    """Cuts stream bytes into capsules and hands them to a session; runs of DATAGRAM together."""

    __slots__ = ("_decoder", "_session")

    def __init__(self, session: FrameSession) -> None:
        self._session = session
        self._decoder = CapsuleDecoder(max_capsule_bytes=MAX_FRAME_BYTES, known_types=FRAME_TYPES)

    def feed(self, data: bytes) -> None:
        """Take bytes, however they arrive.

        Raises:
            WireError: the session is to be ended.
        """
        datagrams: list[bytes] = []
        for capsule in self._decoder.feed(data):
            if capsule.type == FrameType.DATAGRAM:
                datagrams.append(capsule.value)
                continue
            if datagrams:
                self._session.on_datagrams(datagrams)
                datagrams = []
            self._session.on_capsule(capsule.type, capsule.value)
        if datagrams:
            self._session.on_datagrams(datagrams)

    def finish(self) -> None:
        """Learn that the stream ended.

        Raises:
            WireError: inside a frame.
        """
        self._decoder.finish()

"""Owns what stands below the client's transports over TCP: a wire in memory, and who is told."""

from dataclasses import dataclass, field

from masque_relay.quic.application import Headers


@dataclass
class MemoryWire:
    """A Wire whose bytes a test takes; the test plays the relay."""

    written: bytearray = field(default_factory=bytearray)
    is_congested: bool = False
    is_reading: bool = True
    closed: bool = False
    aborted: bool = False

    def write(self, data: bytes) -> None:
        self.written += data

    def take(self) -> bytes:
        data = bytes(self.written)
        self.written.clear()
        return data

    def pause_reading(self) -> None:
        self.is_reading = False

    def resume_reading(self) -> None:
        self.is_reading = True

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.aborted = True


@dataclass
class Told:
    """An H3Application that writes down what it is told, a tuple for each call."""

    calls: list[tuple[object, ...]] = field(default_factory=list)

    def settings_received(self, settings: object) -> None:
        self.calls.append(("settings", settings))

    def headers_received(self, stream_id: int, headers: Headers, *, end_stream: bool) -> None:
        self.calls.append(("headers", stream_id, headers, end_stream))

    def data_received(self, stream_id: int, data: bytes, *, end_stream: bool) -> None:
        self.calls.append(("data", stream_id, data, end_stream))

    def malformed_received(self, stream_id: int, detail: str) -> None:
        self.calls.append(("malformed", stream_id, detail))

    def datagrams_received(self, stream_id: int, payloads: list[bytes]) -> None:
        self.calls.append(("datagrams", stream_id, payloads))

    def stream_reset_received(self, stream_id: int, error_code: int) -> None:
        self.calls.append(("reset", stream_id, error_code))

    def goaway_received(self, stream_id: int) -> None:
        self.calls.append(("goaway", stream_id))

    def streams_writable(self) -> None:
        self.calls.append(("writable",))

    def connection_lost(self, error_code: int, reason: str) -> None:
        self.calls.append(("lost", reason))

    def heard(self, kind: str) -> list[tuple[object, ...]]:
        """Return the calls of one kind, without its name."""
        return [call[1:] for call in self.calls if call[0] == kind]

"""Owns the bytes of Ghostwire frames (docs/protocol/ghostwire.md, "Frames")."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from masque_relay.wire.capsule import encode_capsule
from masque_relay.wire.errors import WireError
from masque_relay.wire.ghostwire import (
    CHALLENGE_BYTES,
    MAX_FRAME_BYTES,
    MAX_REASON_BYTES,
    MAX_SERVICE_BYTES,
    MAX_WATCHED,
    NONCE_BYTES,
    SESSION_ID_BYTES,
    SIGNATURE_BYTES,
    Auth,
    Batch,
    Binding,
    Candidates,
    Challenge,
    ChannelKind,
    Close,
    Credit,
    Data,
    End,
    Error,
    Frame,
    FrameType,
    Hello,
    Observed,
    Open,
    Opened,
    PeerCandidates,
    Ping,
    Pong,
    Presence,
    Relays,
    Restarting,
    Watch,
    Welcome,
)
from masque_relay.wire.octets import OctetReader
from masque_relay.wire.peer_id import PEER_ID_BYTES
from masque_relay.wire.varint import encode_varint

_SECTION = "ghostwire: Frames"
_PING_BYTES = 8
_MAX_VERSIONS = 16
_MAX_PRIORITY = 7
MAX_BATCH_COUNT = 1_024
"""A frame of single bytes would be 65,000 datagrams, each of which costs its receiver a packet."""


def split_datagram(payload: bytes) -> tuple[int, bytes]:
    """Return the channel of a datagram and what it carries.

    Raises:
        WireError: the payload ends before the channel does.
    """
    reader = OctetReader(payload, section=_SECTION)
    return reader.varint(), reader.rest()


def runs_by_channel(payloads: Iterable[bytes]) -> Iterator[tuple[int | None, list[bytes]]]:
    """Yield each run of datagrams of one channel: the channel, and what they carry, in order.

    Those that end before their channel does come under None.
    """
    run: list[bytes] = []
    run_channel: int | None = None
    for payload in payloads:
        channel: int | None
        try:
            channel, rest = split_datagram(payload)
        except WireError:
            channel, rest = None, payload
        if channel != run_channel and run:
            yield run_channel, run
            run = []
        run_channel = channel
        run.append(rest)
    if run:
        yield run_channel, run


def encode_frame(frame: Frame) -> bytes:
    """Return the frame as the frame stream carries it.

    Raises:
        ValueError: a field is out of its range; a bug of the caller, not of a peer.
    """
    frame_type, value = frame_value(frame)
    return encode_capsule(frame_type, value)


def frame_value(frame: Frame) -> tuple[FrameType, bytes]:
    """Return a frame's type and value, for carriers that write capsules themselves."""
    frame_type, encode, _ = _CODECS[type(frame)]
    return frame_type, encode(frame)


def decode_frame(frame_type: int, value: bytes) -> Frame | None:
    """Return the frame; None for PADDING and for types that nobody knows.

    DATAGRAM is not for this function: its value goes to :func:`split_datagram`.

    Raises:
        WireError: the value is not what the protocol says.
    """
    decode = _DECODERS.get(frame_type)
    if decode is None:
        return None
    reader = OctetReader(value, section=_SECTION)
    frame = decode(reader)
    reader.finish()
    return frame


def batches_of(
    channel: int, payloads: Sequence[bytes], *, max_bytes: int = MAX_FRAME_BYTES - 64
) -> list[Batch]:
    """Cut datagrams into as few batches as their sizes allow, in order. Empty ones are left out."""
    batches: list[Batch] = []
    run: list[bytes] = []
    run_bytes = 0
    for payload in payloads:
        if not payload:
            continue
        fits = 0 < len(run) < MAX_BATCH_COUNT and len(payload) <= len(run[0]) == len(run[-1])
        if run and not (fits and run_bytes + len(payload) <= max_bytes):
            batches.append(Batch(channel=channel, payloads=tuple(run)))
            run, run_bytes = [], 0
        run.append(payload)
        run_bytes += len(payload)
    if run:
        batches.append(Batch(channel=channel, payloads=tuple(run)))
    return batches


def _text(text: str) -> bytes:
    """Shorten to what a frame has room for, at a character's end."""
    return text.encode()[:MAX_REASON_BYTES].decode(errors="ignore").encode()


def _read_text(reader: OctetReader) -> str:
    if reader.left_bytes > MAX_REASON_BYTES:
        raise reader.error(f"a reason of {reader.left_bytes} bytes")
    try:
        return reader.rest().decode()
    except UnicodeDecodeError as error:
        raise reader.error("a reason is not UTF-8") from error


def _encode_hello(frame: Hello) -> bytes:
    return b"".join(
        (
            bytes((len(frame.versions), *frame.versions)),
            frame.features.to_bytes(4, "big"),
            frame.nonce,
            frame.time_s.to_bytes(8, "big"),
        )
    )


def _decode_hello(reader: OctetReader) -> Hello:
    count = reader.uint(1)
    if not 1 <= count <= _MAX_VERSIONS:
        raise reader.error(f"{count} versions")
    return Hello(
        versions=tuple(reader.take(count)),
        features=reader.uint(4),
        nonce=reader.take(NONCE_BYTES),
        time_s=reader.uint(8),
    )


def _encode_challenge(frame: Challenge) -> bytes:
    return b"".join(
        (
            frame.version.to_bytes(1, "big"),
            frame.features.to_bytes(4, "big"),
            frame.nonce,
            frame.time_s.to_bytes(8, "big"),
        )
    )


def _decode_challenge(reader: OctetReader) -> Challenge:
    return Challenge(
        version=reader.uint(1),
        features=reader.uint(4),
        nonce=reader.take(CHALLENGE_BYTES),
        time_s=reader.uint(8),
    )


def _encode_auth(frame: Auth) -> bytes:
    token = frame.token.encode("ascii")
    return b"".join(
        (
            frame.peer_id,
            frame.binding.to_bytes(1, "big"),
            frame.signature,
            len(token).to_bytes(2, "big"),
            token,
        )
    )


def _decode_auth(reader: OctetReader) -> Auth:
    peer_id, binding = reader.take(PEER_ID_BYTES), reader.uint(1)
    if binding not in list(Binding):
        raise reader.error(f"binding {binding}")
    signature = reader.take(SIGNATURE_BYTES)
    token = reader.take(reader.uint(2))
    if not token.isascii():
        raise reader.error("a token that is not ASCII")
    return Auth(
        peer_id=peer_id, binding=Binding(binding), signature=signature, token=token.decode("ascii")
    )


def _encode_welcome(frame: Welcome) -> bytes:
    return b"".join(
        (
            frame.session_id,
            frame.keepalive_ms.to_bytes(4, "big"),
            encode_varint(frame.max_channels),
            encode_varint(frame.max_frame_bytes),
            encode_varint(frame.window_bytes),
        )
    )


def _decode_welcome(reader: OctetReader) -> Welcome:
    return Welcome(
        session_id=reader.take(SESSION_ID_BYTES),
        keepalive_ms=reader.uint(4),
        max_channels=reader.varint(),
        max_frame_bytes=reader.varint(),
        window_bytes=reader.varint(),
    )


def _encode_error(frame: Error) -> bytes:
    head = frame.code.to_bytes(2, "big") + frame.retry_after_ms.to_bytes(4, "big")
    return head + _text(frame.reason)


def _decode_error(reader: OctetReader) -> Error:
    return Error(code=reader.uint(2), retry_after_ms=reader.uint(4), reason=_read_text(reader))


def _encode_open(frame: Open) -> bytes:
    if frame.kind.is_to_peer:
        where = frame.peer_id
    else:
        host = frame.host.encode("ascii")
        where = len(host).to_bytes(1, "big") + host + frame.port.to_bytes(2, "big")
    return b"".join(
        (
            encode_varint(frame.channel),
            bytes((frame.kind, frame.priority)),
            encode_varint(frame.credit_bytes),
            where,
            len(frame.service).to_bytes(1, "big"),
            frame.service,
        )
    )


def _decode_open(reader: OctetReader) -> Open:
    channel, kind_number, priority = reader.varint(), reader.uint(1), reader.uint(1)
    if kind_number not in list(ChannelKind):
        raise reader.error(f"channel kind {kind_number}")
    if priority > _MAX_PRIORITY:
        raise reader.error(f"priority {priority}")
    kind, credit_bytes = ChannelKind(kind_number), reader.varint()
    peer_id, host, port = b"", b"", 0
    if kind.is_to_peer:
        peer_id = reader.take(PEER_ID_BYTES)
    else:
        host, port = reader.take(reader.uint(1)), reader.uint(2)
        if not host or not host.isascii() or not port:
            raise reader.error("a host or port that is none")
    service = reader.take(reader.uint(1))
    if len(service) > MAX_SERVICE_BYTES:
        raise reader.error(f"a service of {len(service)} bytes")
    return Open(
        channel=channel,
        kind=kind,
        priority=priority,
        credit_bytes=credit_bytes,
        peer_id=peer_id,
        host=host.decode("ascii"),
        port=port,
        service=service,
    )


def _encode_opened(frame: Opened) -> bytes:
    return encode_varint(frame.channel) + encode_varint(frame.credit_bytes)


def _encode_close(frame: Close) -> bytes:
    return encode_varint(frame.channel) + frame.code.to_bytes(2, "big") + _text(frame.reason)


def _encode_credit(frame: Credit) -> bytes:
    return encode_varint(frame.channel) + encode_varint(frame.limit_bytes)


def _encode_batch(frame: Batch) -> bytes:
    head = encode_varint(frame.channel) + len(frame.payloads[0]).to_bytes(2, "big")
    return head + b"".join(frame.payloads)


def _decode_batch(reader: OctetReader) -> Batch:
    channel, segment_bytes = reader.varint(), reader.uint(2)
    if not segment_bytes or not reader.left_bytes:
        raise reader.error("an empty batch")
    joined = reader.rest()
    starts = range(0, len(joined), segment_bytes)
    if len(starts) > MAX_BATCH_COUNT:
        raise reader.error(f"a batch of {len(starts)} datagrams")
    return Batch(
        channel=channel, payloads=tuple(joined[start : start + segment_bytes] for start in starts)
    )


def _decode_watch(reader: OctetReader) -> Watch:
    count, rest = divmod(reader.left_bytes, PEER_ID_BYTES)
    if rest or count > MAX_WATCHED:
        raise reader.error(f"a list of {reader.left_bytes} bytes")
    return Watch(peer_ids=tuple(reader.take(PEER_ID_BYTES) for _ in range(count)))


def _decode_presence(reader: OctetReader) -> Presence:
    peer_id, state = reader.take(PEER_ID_BYTES), reader.uint(1)
    if state > 1:
        raise reader.error(f"presence {state}")
    return Presence(peer_id=peer_id, is_here=bool(state))


def _encode_candidates(frame: Candidates | PeerCandidates) -> bytes:
    return len(frame.record).to_bytes(2, "big") + frame.record + frame.signature


def _encode_observed(frame: Observed) -> bytes:
    family = 4 if len(frame.address) == 4 else 6
    ports = frame.port.to_bytes(2, "big") + frame.observer_port.to_bytes(2, "big")
    return bytes((family,)) + frame.address + ports


def _decode_observed(reader: OctetReader) -> Observed:
    family = reader.uint(1)
    if family not in {4, 6}:
        raise reader.error(f"address family {family}")
    return Observed(
        address=reader.take(4 if family == 4 else 16),
        port=reader.uint(2),
        observer_port=reader.uint(2),
    )


_Codec = tuple[FrameType, Callable[[Any], bytes], Callable[[OctetReader], Frame]]

_CODECS: dict[type[Any], _Codec] = {
    Hello: (FrameType.HELLO, _encode_hello, _decode_hello),
    Challenge: (FrameType.CHALLENGE, _encode_challenge, _decode_challenge),
    Auth: (FrameType.AUTH, _encode_auth, _decode_auth),
    Welcome: (FrameType.WELCOME, _encode_welcome, _decode_welcome),
    Error: (FrameType.ERROR, _encode_error, _decode_error),
    Open: (FrameType.OPEN, _encode_open, _decode_open),
    Opened: (
        FrameType.OPENED,
        _encode_opened,
        lambda reader: Opened(channel=reader.varint(), credit_bytes=reader.varint()),
    ),
    Close: (
        FrameType.CLOSE,
        _encode_close,
        lambda reader: Close(
            channel=reader.varint(), code=reader.uint(2), reason=_read_text(reader)
        ),
    ),
    Data: (
        FrameType.DATA,
        lambda frame: encode_varint(frame.channel) + frame.data,
        lambda reader: Data(channel=reader.varint(), data=reader.rest()),
    ),
    End: (
        FrameType.END,
        lambda frame: encode_varint(frame.channel),
        lambda reader: End(channel=reader.varint()),
    ),
    Credit: (
        FrameType.CREDIT,
        _encode_credit,
        lambda reader: Credit(channel=reader.varint(), limit_bytes=reader.varint()),
    ),
    Batch: (FrameType.BATCH, _encode_batch, _decode_batch),
    Ping: (
        FrameType.PING,
        lambda frame: frame.opaque,
        lambda reader: Ping(opaque=reader.take(_PING_BYTES)),
    ),
    Pong: (
        FrameType.PONG,
        lambda frame: frame.opaque,
        lambda reader: Pong(opaque=reader.take(_PING_BYTES)),
    ),
    Watch: (FrameType.WATCH, lambda frame: b"".join(frame.peer_ids), _decode_watch),
    Presence: (
        FrameType.PRESENCE,
        lambda frame: frame.peer_id + bytes((frame.is_here,)),
        _decode_presence,
    ),
    Candidates: (
        FrameType.CANDIDATES,
        _encode_candidates,
        lambda reader: Candidates(
            record=reader.take(reader.uint(2)), signature=reader.take(SIGNATURE_BYTES)
        ),
    ),
    PeerCandidates: (
        FrameType.PEER_CANDIDATES,
        _encode_candidates,
        lambda reader: PeerCandidates(
            record=reader.take(reader.uint(2)), signature=reader.take(SIGNATURE_BYTES)
        ),
    ),
    Observed: (FrameType.OBSERVED, _encode_observed, _decode_observed),
    Relays: (
        FrameType.RELAYS,
        lambda frame: frame.document,
        lambda reader: Relays(document=reader.rest()),
    ),
    Restarting: (
        FrameType.RESTARTING,
        lambda frame: (
            frame.reconnect_in_ms.to_bytes(4, "big") + frame.try_for_ms.to_bytes(4, "big")
        ),
        lambda reader: Restarting(reconnect_in_ms=reader.uint(4), try_for_ms=reader.uint(4)),
    ),
}

_DECODERS: dict[int, Callable[[OctetReader], Frame]] = {
    frame_type: decode for frame_type, _, decode in _CODECS.values()
}

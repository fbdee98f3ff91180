"""Owns FrameGuard: bounds on HTTP/2 frames that the h2 library lacks (RFC 9113 section 10.5).

h2 buffers a frame of any announced length before it looks at the length, and 64 CONTINUATION frames
of any size; it counts neither PINGs nor SETTINGS. The guard reads the frame headers first.
"""

from h2.errors import ErrorCodes

from masque_relay.http.rate import EventRate

PREFACE_BYTES = 24
MAX_FRAME_BYTES = 16_384  # RFC 9113 section 6.5.2: the least that SETTINGS_MAX_FRAME_SIZE may say
_HEAD_BYTES = 9
_DATA, _HEADERS, _CONTINUATION, _WINDOW_UPDATE = 0x0, 0x1, 0x9, 0x8
_END_STREAM, _END_HEADERS = 0x1, 0x4


class FrameError(Exception):
    """The peer floods; the connection is to be closed.

    Attributes:
        code: for GOAWAY.
    """

    def __init__(self, code: ErrorCodes, detail: str) -> None:
        super().__init__(detail)
        self.code = code


class FrameGuard:
    """Follows the frame headers of one connection, however its bytes arrive.

    Attributes:
        has_begun: the preface and a first frame header are there.
        is_inside_head: a header block has begun and not ended.
    """

    __slots__ = (
        "_block_bytes",
        "_head",
        "_max_block_bytes",
        "_rate",
        "_skip_bytes",
        "has_begun",
        "is_inside_head",
    )

    def __init__(
        self, *, max_block_bytes: int, rate: EventRate, preface_bytes: int = PREFACE_BYTES
    ) -> None:
        self._max_block_bytes = max_block_bytes
        self._rate = rate
        self._skip_bytes = preface_bytes  # a client gets none, RFC 9113 section 3.4
        self._head = bytearray()
        """The beginning of a frame header whose end has not arrived."""
        self._block_bytes = 0
        self.has_begun = False
        self.is_inside_head = False

    def feed(self, data: bytes) -> None:
        """Look at the next bytes.

        Raises:
            FrameError: a frame or a header block is too large, or control frames come too fast.
        """
        offset, end = 0, len(data)
        while offset < end:
            if self._skip_bytes:
                step = min(self._skip_bytes, end - offset)
                self._skip_bytes -= step
                offset += step
                continue
            step = _HEAD_BYTES - len(self._head)
            self._head += data[offset : offset + step]
            offset += step
            if len(self._head) == _HEAD_BYTES:
                self.has_begun = True
                self._frame_begun(
                    int.from_bytes(self._head[:3], "big"), self._head[3], self._head[4]
                )
                self._head.clear()

    def _frame_begun(self, length: int, kind: int, flags: int) -> None:
        if length > MAX_FRAME_BYTES:
            raise FrameError(ErrorCodes.FRAME_SIZE_ERROR, "a frame is too large")
        self._skip_bytes = length
        if kind in {_HEADERS, _CONTINUATION}:
            self._header_frame(length, kind, flags)
        elif kind == _WINDOW_UPDATE or (kind == _DATA and (length or flags & _END_STREAM)):
            return
        elif not self._rate.allow():
            raise FrameError(ErrorCodes.ENHANCE_YOUR_CALM, "too many control frames")

    def _header_frame(self, length: int, kind: int, flags: int) -> None:
        if kind == _HEADERS:
            self._block_bytes = 0
        self._block_bytes += length
        if self._block_bytes > self._max_block_bytes:
            raise FrameError(ErrorCodes.ENHANCE_YOUR_CALM, "a header block is too large")
        if kind == _CONTINUATION and not self._rate.allow():
            raise FrameError(ErrorCodes.ENHANCE_YOUR_CALM, "too many CONTINUATION frames")
        self.is_inside_head = not flags & _END_HEADERS

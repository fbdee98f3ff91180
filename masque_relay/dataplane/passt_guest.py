"""Owns PasstGuest: one guest of passt; its process is read, fed, and started again when it dies."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence

from masque_relay.contract.address import IPAddress
from masque_relay.dataplane.device_error import DeviceError
from masque_relay.dataplane.ip_egress_settings import UserspaceSettings
from masque_relay.dataplane.passt_frames import FrameReader, FramingLostError, encode_packets
from masque_relay.dataplane.passt_process import PasstProcess

PAUSE_S = 0.002
"""How long passt waits where its tunnel is busy: a few dozen packets at 200 Mbit/s."""

logger = logging.getLogger(__name__)


class PasstGuest:
    """IP packets to and from one passt process at a time.

    A process that dies is replaced up to ``settings.restarts`` times within
    ``settings.restart_window_s``; its TCP connections are lost then, the tunnel is not.

    Args:
        settings: program, buffers, restarts.
        addresses: of the guest, at most one of each family.
        on_packets: takes what comes from the network.
        is_busy: whether it cannot take more just now; then passt has to wait, and with it the
            hosts whose TCP it speaks. passt has no congestion control of its own.
        on_lost: called once, when processes die too often; the guest is closed already.

    Raises:
        DeviceError: the program is not there or cannot be started.
    """

    def __init__(
        self,
        settings: UserspaceSettings,
        addresses: Sequence[IPAddress],
        *,
        on_packets: Callable[[list[bytes]], None],
        is_busy: Callable[[], bool],
        on_lost: Callable[[str], None],
    ) -> None:
        self._settings = settings
        self._addresses = tuple(addresses)
        self._on_packets = on_packets
        self._is_busy = is_busy
        self._pause: asyncio.TimerHandle | None = None
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._starts_s: deque[float] = deque(maxlen=settings.restarts + 1)
        self._process: PasstProcess | None = None
        self._reader = FrameReader(())
        self._unsent = b""
        """The end of what the socket did not take; until it is gone further packets are dropped."""
        self._start()

    @property
    def pid(self) -> int | None:
        """Of the process; None once closed."""
        return None if self._process is None else self._process.pid

    @property
    def heard(self) -> bool:
        """Whether the process has said anything yet."""
        return self._reader.heard

    def send_packets(self, packets: Sequence[bytes]) -> int:
        """Send IP packets; return how many were taken. Never blocks or raises."""
        if not packets:
            return 0
        return len(packets) if self.send_frames(encode_packets(packets)) else 0

    def send_frames(self, frames: bytes) -> bool:
        """Send whole frames; return False where there is no room for them."""
        process = self._process
        if process is None or self._unsent:
            return False
        try:
            sent_bytes = process.socket.send(frames)
        except BlockingIOError:
            return False
        except OSError:
            return False  # it died; the reader will find out
        if sent_bytes < len(frames):
            self._unsent = frames[sent_bytes:]
            self._loop.add_writer(process.socket.fileno(), self._on_writable)
        return True

    def close(self) -> None:
        """End the process; idempotent. Nothing is called afterwards."""
        self._end()

    # -- parts -----------------------------------------------------------------------------------

    def _start(self) -> None:
        process = PasstProcess(self._settings, self._addresses)
        self._process = process
        self._reader = FrameReader(self._addresses)
        self._unsent = b""
        self._starts_s.append(self._loop.time())
        self._loop.add_reader(process.socket.fileno(), self._on_readable)

    def _end(self) -> str:
        """End the process; return what it complained of."""
        process, self._process = self._process, None
        if process is None:
            return ""
        if self._pause is not None:
            self._pause.cancel()
        descriptor = process.socket.fileno()
        self._loop.remove_reader(descriptor)
        self._loop.remove_writer(descriptor)
        return process.close()

    def _on_readable(self) -> None:
        process = self._process
        if process is None:
            return
        try:
            data = process.socket.recv(self._settings.read_bytes)
            packets = self._reader.feed(data)
        except BlockingIOError:
            return
        except (OSError, FramingLostError):
            self._died()
            return
        if not data:
            self._died()
            return
        if self._reader.answers:
            answers, self._reader.answers = self._reader.answers, []
            self.send_frames(b"".join(answers))
        if packets:
            self._on_packets(packets)
        if self._process is process and self._is_busy():
            self._loop.remove_reader(process.socket.fileno())
            self._pause = self._loop.call_later(PAUSE_S, self._go_on)

    def _go_on(self) -> None:
        process = self._process
        if process is not None:
            self._loop.add_reader(process.socket.fileno(), self._on_readable)

    def _on_writable(self) -> None:
        process = self._process
        if process is None:
            return
        try:
            sent_bytes = process.socket.send(self._unsent)
        except BlockingIOError:
            return
        except OSError:
            sent_bytes = len(self._unsent)  # it died; the reader will find out
        self._unsent = self._unsent[sent_bytes:]
        if not self._unsent:
            self._loop.remove_writer(process.socket.fileno())

    def _died(self) -> None:
        complaint = self._end() or "it said nothing"
        window_s = self._loop.time() - self._settings.restart_window_s
        if len(self._starts_s) == self._starts_s.maxlen and self._starts_s[0] > window_s:
            self._on_lost(f"passt dies again and again: {complaint}")
            return
        logger.warning("A passt process died and is started again: %s", complaint)
        try:
            self._start()
        except DeviceError as error:
            self._on_lost(error.message)

"""Owns the client's UDP sockets: as much buffer as this user may have, without asking for more."""

from pathlib import Path

from masque_relay.contract.address import Endpoint
from masque_relay.dataplane.batch_io import BatchUdpSocket, bind_udp
from masque_relay.dataplane.limits import SocketLimits

WANTED_BYTES = 4 << 20
"""25 ms of 1,200 B datagrams at 140,000/s: what a busy turn of the loop may take."""

_KERNEL_CAPS = Path("/proc/sys/net/core")


def socket_limits(caps: Path = _KERNEL_CAPS) -> SocketLimits:
    """Return limits that the kernel grants to everybody.

    A relay says so when its buffers are capped, because its operator can raise the cap. Whoever
    runs a tunnel on a laptop can't, and need not.
    """
    return SocketLimits(
        receive_buffer_bytes=min(WANTED_BYTES, _cap_bytes(caps / "rmem_max")),
        send_buffer_bytes=min(WANTED_BYTES, _cap_bytes(caps / "wmem_max")),
    )


def bind_client_udp(endpoint: Endpoint) -> BatchUdpSocket:
    """Bind a batching UDP socket; a DatagramSocketFactory.

    Raises:
        FlowError: the address is taken or not ours.
    """
    return bind_udp(endpoint, limits=socket_limits())


def _cap_bytes(path: Path) -> int:
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return WANTED_BYTES  # no Linux, or no /proc: the socket layer takes what it gets

"""Owns the settings of the two real ways out for CONNECT-IP, each with the reason for its default.

Fields with names and switches are the operator's to set; sizes and counts bound memory.
"""

from dataclasses import dataclass

DEFAULT_MTU_BYTES = 1_500
"""Of nearly every network that an egress leads to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TunSettings:
    """A TUN device of the kernel; needs CAP_NET_ADMIN."""

    device: str = "ghostwire0"
    """Name of the device, of the nftables table (`ghostwire-DEVICE`) and of the state file in /run.
    Two relays on one host need two names."""
    mtu_bytes: int = DEFAULT_MTU_BYTES
    """Of the device. Packets that a client's path does not take are answered with Packet Too Big,
    so this need not be the smallest of them."""
    masquerade: bool = True
    """Hide the clients behind the addresses of this host (NAT), and let in only what answers them.
    Turn it off where the pools are routed to this host; then nothing is filtered either."""
    forwarding: bool = True
    """Turn IP forwarding on while the relay runs. Off: the operator has done so."""
    allow_own_addresses: bool = False
    """Let clients reach this host itself under its own addresses."""
    read_packets: int = 256
    """Read from the device per turn of the loop, so that one busy client cannot starve others."""
    queue_packets: int = 1_000
    """Kept by the kernel for us while the loop serves others; the newest is dropped beyond it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UserspaceSettings:
    """Debian's `passt`, one process per tunnel; needs no privileges."""

    program: str = "passt"
    """Name or path of the program."""
    mtu_bytes: int = DEFAULT_MTU_BYTES
    """The largest packet taken from a client, and the one after which TCP chooses its segments."""
    allow_own_addresses: bool = False
    """Let clients reach this host itself under its own public addresses."""
    tunnels: int = 64
    """Processes at once; each has about 20 MB of its own. Further tunnels are refused."""
    start_timeout_s: float = 5.0
    """When the relay starts, one passt is tried out; one that has not answered by then never will.
    """
    read_bytes: int = 65_536
    """Read per turn of the loop, so that one busy tunnel starves no other, and its client's
    queue is looked at often: 45 full packets."""
    send_buffer_bytes: int = 1 << 20
    """Of the socket to each passt; beyond it packets are dropped and counted."""
    restarts: int = 3
    """A passt that dies is started again this often within `restart_window_s`; then its tunnel
    ends. Its TCP connections are lost each time."""
    restart_window_s: float = 60.0
    """Long enough to tell a program that always dies from one that died of something rare."""

"""Owns what a payload size means to people: which traffic fits, and what to set where it doesn't.

A datagram that is too large is dropped, not cut and not queued: nothing on the way may fragment
(RFC 9298 section 6), and QUIC datagrams cannot be larger than the path. So we say the number.
"""

QUIC_INITIAL_BYTES = 1_200
"""RFC 9000 section 14.1: no QUIC connection works through a path that takes less."""

WIREGUARD_OVERHEAD_BYTES = 32
"""Type, receiver and counter (16) before an inner packet, the tag (16) behind it."""

IPV6_MINIMUM_MTU_BYTES = 1_280
"""RFC 8200 section 5."""


def wireguard_mtu_bytes(max_payload_bytes: int) -> int:
    """Return the largest MTU that a WireGuard interface may have whose packets must fit.

    WireGuard pads inner packets to a multiple of 16, but never beyond its MTU.
    """
    return max(0, max_payload_bytes - WIREGUARD_OVERHEAD_BYTES)


def describe_payload(max_payload_bytes: int, *, reliable: bool) -> str:
    """Return one line: what fits, and what that means for QUIC and WireGuard inside the tunnel."""
    if reliable:
        return (
            f"datagrams of up to {max_payload_bytes} bytes fit (as capsules on a stream, "
            "because there are no QUIC datagrams: reliable, in order, slower)"
        )
    parts = [f"datagrams of up to {max_payload_bytes} bytes fit"]
    if max_payload_bytes < QUIC_INITIAL_BYTES:
        parts.append("QUIC inside the tunnel needs 1200 and will not work")
    mtu_bytes = wireguard_mtu_bytes(max_payload_bytes)
    if mtu_bytes >= IPV6_MINIMUM_MTU_BYTES:
        parts.append(f"WireGuard inside needs MTU {mtu_bytes} or less")
    else:
        parts.append(f"WireGuard inside needs MTU {mtu_bytes} or less, too small for IPv6 in it")
    return "; ".join(parts)


def oversize_advice(largest_bytes: int, max_payload_bytes: int) -> str:
    """Return what to do about datagrams that were dropped because they are too large."""
    return (
        f"send at most {max_payload_bytes} bytes per datagram (the largest dropped had "
        f"{largest_bytes}); for WireGuard set MTU = {wireguard_mtu_bytes(max_payload_bytes)}, "
        "for other VPNs and QUIC applications lower their packet size alike"
    )

"""Limits of the HTTP front ends."""

import dataclasses

from masque_relay.http.carrier import MAX_CAPSULE_PAYLOAD_BYTES
from masque_relay.http.limits import HttpLimits


def test_every_limit_is_a_positive_number() -> None:
    for limits in (HttpLimits(), HttpLimits().websocket):
        for field in dataclasses.fields(limits):
            if field.type in {int, float}:
                assert getattr(limits, field.name) > 0, field.name


def test_largest_udp_payload_fits_a_capsule() -> None:
    assert HttpLimits().max_capsule_bytes >= MAX_CAPSULE_PAYLOAD_BYTES


def test_a_stream_cannot_buffer_more_than_its_connection() -> None:
    limits = HttpLimits()

    assert limits.early_datagram_bytes_per_stream <= limits.early_datagram_bytes_per_connection

"""Owns the test that events are values which a report can be made of."""

import dataclasses

from masque_relay.client.events import RelayConnected, ignore_event


def test_an_event_is_a_frozen_value_and_may_be_ignored() -> None:
    event = RelayConnected(peer=None)
    ignore_event(event)
    assert event == RelayConnected(peer=None)
    assert dataclasses.asdict(event) == {"peer": None}

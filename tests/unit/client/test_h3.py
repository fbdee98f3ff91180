"""Owns the tests of HTTP/3 as a transport of the client, over QUIC in memory."""

from masque_relay.client.connection import RelayConnection
from masque_relay.client.h3 import H3ClientTransport, h3_application
from masque_relay.client.http_transport import HttpTransport
from masque_relay.client.limits import ClientLimits
from masque_relay.quic.application import QuicTransport
from masque_relay.quic.h3_adapter import H3Session
from tests.support.aioquic_relays import RecordingH3Application
from tests.support.quic_pair import Pair, make_pair


def pair_with(connection: RelayConnection) -> Pair:
    def serve(quic: QuicTransport) -> H3Session:
        return H3Session(quic, RecordingH3Application())

    pair = make_pair(
        applications={"h3": serve}, client_applications={"h3": h3_application(connection)}
    )
    pair.settle()
    return pair


async def test_a_quic_connection_becomes_a_relay_connection() -> None:
    connection = RelayConnection(ClientLimits())
    assert connection.http_version == ""
    pair_with(connection)
    await connection.wait_ready()
    assert connection.http_version == "3"
    assert connection.datagrams_negotiated


async def test_a_ping_is_sent_and_answered() -> None:
    connection = RelayConnection(ClientLimits())
    pair = pair_with(connection)
    assert pair.turn() == 0
    connection.ping()
    assert pair.turn() > 0


def as_http_transport(transport: H3ClientTransport) -> HttpTransport:
    """Hold the class to the Protocol."""
    return transport

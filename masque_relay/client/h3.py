"""Owns HTTP/3 below the client: an H3Session with what every HttpTransport has."""

from masque_relay.client.connection import RelayConnection
from masque_relay.contract.ghostwire import Exporter
from masque_relay.quic.application import ApplicationFactory, QuicApplication, QuicTransport
from masque_relay.quic.h3_adapter import H3Session


class H3ClientTransport(H3Session):
    """One HTTP/3 connection to a relay; an HttpTransport."""

    http_version = "3"
    request_limit = 1 << 60  # RFC 9000 section 4.6; what the relay grants now, QUIC keeps to

    @property
    def exporter(self) -> Exporter | None:
        """TLS keying material of this connection."""
        return self.quic.export_keying_material

    async def prepare(self) -> None:
        """Return at once: QUIC itself holds a request back until the relay grants a stream."""

    def ping(self) -> None:
        """Send a QUIC PING."""
        self.quic.send_ping()


def h3_application(connection: RelayConnection) -> ApplicationFactory:
    """Return what a QUIC endpoint needs to put ``connection`` on a QUIC connection."""

    def put(quic: QuicTransport) -> QuicApplication:
        session = H3ClientTransport(quic, connection)
        connection.attach(session)
        return session

    return put

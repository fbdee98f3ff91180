"""Owns the relay's side of QUIC-native sessions: a connection with ALPN ``ghostwire/1``."""

from masque_relay.contract.ghostwire import Arrival, SessionFactory
from masque_relay.contract.request import ClientCertificate, Credential, Transport
from masque_relay.quic.application import ApplicationFactory, QuicApplication, QuicTransport
from masque_relay.tunnels.ghostwire_quic import ALPN, GhostwireConnection

__all__ = ["ALPN", "quic_native_factory"]


def quic_native_factory(new_session: SessionFactory) -> ApplicationFactory:
    """Return what serves a connection whose ALPN is ``ghostwire/1``.

    The gate is asked when AUTH has come: nothing but a handshake is served before.
    """

    def serve(transport: QuicTransport) -> QuicApplication:
        return GhostwireConnection(transport, new_session(_arrival_of(transport)))

    return serve


def _arrival_of(transport: QuicTransport) -> Arrival:
    chain = transport.peer_certificate_chain
    credentials: tuple[Credential, ...] = (ClientCertificate(chain_der=chain),) if chain else ()
    return Arrival(
        transport=Transport.QUIC_NATIVE,
        source=transport.peer,
        credentials=credentials,
        lease=None,
        exporter=transport.export_keying_material,
        relay_name=transport.server_name or "",
        request_id=transport.connection_id,
    )

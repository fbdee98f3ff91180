"""What connections are made with keeps its secrets to itself."""

from masque_relay.quic.connection_settings import ClientSettings, ServerSettings
from masque_relay.quic.limits import QuicLimits
from masque_relay.quic.tls import CertificateStore
from tests.support.quic_pair import RecordingApplication, server_identity


def test_limits_are_the_defaults_unless_given() -> None:
    applications = {"test": RecordingApplication}
    server = ServerSettings(
        applications=applications, certificates=CertificateStore(server_identity())
    )
    assert server.limits == QuicLimits()


def test_no_private_key_is_in_the_representation() -> None:
    client = ClientSettings(
        applications={"test": RecordingApplication},
        server_name="relay.test",
        identity=server_identity(),
    )
    assert "PrivateKey" not in repr(client)

"""Certificates by name, client certificates, the exporter."""

import pytest
from aioquic import tls as aioquic_tls
from cryptography.hazmat.primitives.asymmetric import ec, x25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID

from masque_relay.quic.connection_settings import ClientSettings, ServerSettings
from masque_relay.quic.limits import QuicLimits
from masque_relay.quic.tls import CertificateIdentity, CertificateStore, ClientCertificates
from tests.support.quic_pair import (
    Pair,
    RecordingApplication,
    certificate_authority,
    make_pair,
    server_identity,
)

APPLICATIONS = {"test": RecordingApplication}
CRYPTO_ERROR = 0x100


def identity(*names: str) -> CertificateIdentity:
    return certificate_authority().issue(*names)


def client_identity(ca: str = "test CA", *, for_clients: bool = True) -> CertificateIdentity:
    purpose = ExtendedKeyUsageOID.CLIENT_AUTH if for_clients else ExtendedKeyUsageOID.SERVER_AUTH
    return certificate_authority(ca).issue("alice", purpose=purpose)


def pair_for(
    store: CertificateStore,
    server_name: str = "relay.test",
    *,
    client: CertificateIdentity | None = None,
    client_certificates: ClientCertificates = ClientCertificates.IGNORED,
    client_ca_pem: bytes | None = None,
) -> Pair:
    return make_pair(
        server_settings=ServerSettings(
            applications=APPLICATIONS,
            certificates=store,
            client_certificates=client_certificates,
            client_ca_pem=client_ca_pem,
        ),
        client_settings=ClientSettings(
            applications=APPLICATIONS,
            server_name=server_name,
            ca_pem=certificate_authority().pem,
            identity=client,
        ),
    )


class TestCertificateIdentity:
    def test_a_key_of_another_certificate_is_refused(self) -> None:
        good = server_identity()
        other = ec.generate_private_key(ec.SECP256R1())
        with pytest.raises(ValueError, match="does not belong"):
            CertificateIdentity.from_pem(
                good.certificate.public_bytes(Encoding.PEM),
                other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
            )

    def test_a_key_that_cannot_sign_is_refused(self) -> None:
        key = x25519.X25519PrivateKey.generate()
        with pytest.raises(ValueError, match="cannot sign"):
            CertificateIdentity.from_pem(
                server_identity().certificate.public_bytes(Encoding.PEM),
                key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
            )

    def test_an_empty_file_is_refused(self) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        with pytest.raises(ValueError, match="certificate"):
            CertificateIdentity.from_pem(b"", pem)

    def test_the_key_is_not_in_the_representation(self) -> None:
        assert "private_key" not in repr(server_identity())


class TestCertificateStore:
    def test_a_name_gets_its_own_certificate(self) -> None:
        first, second = identity("one.test"), identity("two.test", "*.wild.test")
        store = CertificateStore(first, [second])
        assert store.select("one.test") is first
        assert store.select("TWO.test.") is second
        assert store.select("a.wild.test") is second

    def test_a_wildcard_covers_one_label(self) -> None:
        store = CertificateStore(
            identity("one.test"), [identity("*.wild.test")], refuse_unknown_names=True
        )
        assert store.select("a.b.wild.test") is None
        assert store.select("wild.test") is None

    def test_an_unknown_name_gets_the_default_or_nothing(self) -> None:
        first = identity("one.test")
        assert CertificateStore(first).select("who.test") is first
        assert CertificateStore(first, refuse_unknown_names=True).select("who.test") is None

    def test_no_name_gets_the_default_even_where_unknown_names_are_refused(self) -> None:
        first = identity("one.test")
        assert CertificateStore(first, refuse_unknown_names=True).select(None) is first


class TestHandshake:
    def test_the_server_presents_the_certificate_of_the_name(self) -> None:
        first, second = identity("one.test"), identity("two.test")
        pair = pair_for(CertificateStore(first, [second]), "two.test")
        assert pair.client.alpn
        assert pair.client.peer_certificate_chain[0] == second.certificate.public_bytes(
            Encoding.DER
        )
        assert pair.server.server_name == "two.test"

    def test_an_unknown_name_gets_the_alert_where_the_policy_says_so(self) -> None:
        store = CertificateStore(server_identity(), refuse_unknown_names=True)
        pair = pair_for(store, "who.test")
        assert pair.client.termination is not None
        alert = CRYPTO_ERROR + aioquic_tls.AlertDescription.unrecognized_name
        assert pair.client.termination[0] == alert

    def test_a_certificate_for_another_name_is_refused_by_the_client(self) -> None:
        pair = pair_for(CertificateStore(identity("one.test")), "two.test")
        assert not pair.client.alpn

    def test_a_reload_is_for_new_connections_and_leaves_the_old_ones(self) -> None:
        store = CertificateStore(identity("relay.test"))
        old = pair_for(store)
        renewed = identity("relay.test")
        store.replace(renewed)
        new = pair_for(store)
        assert new.client.peer_certificate_chain[0] == renewed.certificate.public_bytes(
            Encoding.DER
        )
        old.client.send_stream_data(0, b"still here", end_stream=True)
        old.settle()
        app = old.server_app
        assert isinstance(app, RecordingApplication)
        assert bytes(app.streams[0]) == b"still here"

    def test_no_session_ticket_is_issued(self) -> None:
        pair = pair_for(CertificateStore(server_identity()))
        context = pair.server._connection.tls_context
        assert context is not None
        assert context.new_session_ticket_cb is None
        assert context._max_early_data is None

    def test_an_alpn_that_is_not_ours_is_refused(self) -> None:
        pair = make_pair(
            applications=APPLICATIONS, client_applications={"other": RecordingApplication}
        )
        assert pair.client.termination is not None
        alert = CRYPTO_ERROR + aioquic_tls.AlertDescription.no_application_protocol
        assert pair.client.termination[0] == alert


class TestClientCertificates:
    def test_the_chain_is_shown_to_the_application(self) -> None:
        client = client_identity()
        pair = pair_for(
            CertificateStore(server_identity()),
            client=client,
            client_certificates=ClientCertificates.OPTIONAL,
            client_ca_pem=certificate_authority().pem,
        )
        assert pair.server.alpn
        assert pair.server.peer_certificate_chain == (
            client.certificate.public_bytes(Encoding.DER),
        )

    def test_optional_means_that_none_will_do(self) -> None:
        pair = pair_for(
            CertificateStore(server_identity()), client_certificates=ClientCertificates.OPTIONAL
        )
        assert pair.server.alpn
        assert pair.server.peer_certificate_chain == ()

    def test_a_client_is_not_asked_where_certificates_are_ignored(self) -> None:
        pair = pair_for(CertificateStore(server_identity()), client=client_identity())
        assert pair.server.alpn
        assert pair.server.peer_certificate_chain == ()

    @pytest.mark.parametrize(
        ("client", "alert"),
        [
            pytest.param(
                None, aioquic_tls.AlertDescription.certificate_required, id="no certificate"
            ),
            pytest.param(
                "foreign CA", aioquic_tls.AlertDescription.bad_certificate, id="foreign CA"
            ),
            pytest.param(
                "server only",
                aioquic_tls.AlertDescription.unsupported_certificate,
                id="certificate for servers",
            ),
        ],
    )
    def test_an_unfit_certificate_ends_the_handshake(self, client: str | None, alert: int) -> None:
        presented = {
            None: lambda: None,
            "foreign CA": lambda: client_identity("foreign CA"),
            "server only": lambda: client_identity(for_clients=False),
        }[client]()
        pair = pair_for(
            CertificateStore(server_identity()),
            client=presented,
            client_certificates=ClientCertificates.REQUIRED,
            client_ca_pem=certificate_authority().pem,
        )
        assert not pair.server.alpn
        assert pair.client.termination is not None
        assert pair.client.termination[0] == CRYPTO_ERROR + alert

    def test_without_a_ca_the_control_plane_decides(self) -> None:
        pair = pair_for(
            CertificateStore(server_identity()),
            client=client_identity("foreign CA"),
            client_certificates=ClientCertificates.REQUIRED,
        )
        assert pair.server.alpn
        assert len(pair.server.peer_certificate_chain) == 1


class TestExporter:
    """RFC 8446 section 7.5; RFC 9729 takes 48 bytes of it."""

    LABEL = b"EXPORTER-HTTP-Concealed-Authentication"

    def test_both_ends_export_the_same(self) -> None:
        pair = make_pair()
        ours = pair.server.export_keying_material(self.LABEL, b"context", 48)
        assert len(ours) == 48
        assert ours == pair.client.export_keying_material(self.LABEL, b"context", 48)

    def test_label_context_and_connection_all_matter(self) -> None:
        pair, other = make_pair(), make_pair()
        exports = {
            pair.server.export_keying_material(self.LABEL, b"context", 32),
            pair.server.export_keying_material(self.LABEL, b"", 32),
            pair.server.export_keying_material(b"another label", b"context", 32),
            other.server.export_keying_material(self.LABEL, b"context", 32),
        }
        assert len(exports) == 4

    def test_client_certificates_do_not_change_it_on_one_side_only(self) -> None:
        pair = pair_for(
            CertificateStore(server_identity()),
            client=client_identity(),
            client_certificates=ClientCertificates.REQUIRED,
        )
        assert pair.server.export_keying_material(
            self.LABEL, b"", 32
        ) == pair.client.export_keying_material(self.LABEL, b"", 32)

    def test_there_is_none_before_the_handshake(self) -> None:
        pair = make_pair(handshake=False)
        with pytest.raises(RuntimeError, match="handshake"):
            pair.server.export_keying_material(self.LABEL, b"", 32)

    def test_it_is_the_exporter_of_the_rfc(self) -> None:
        """RFC 8446 section 7.5 worked by hand with HMAC, from the secret that is kept."""
        import hashlib  # noqa: PLC0415 - only here
        import hmac  # noqa: PLC0415 - only here

        def expand_label(secret: bytes, label: bytes, context: bytes, length: int) -> bytes:
            full = b"tls13 " + label
            info = (
                length.to_bytes(2, "big")
                + bytes([len(full)])
                + full
                + bytes([len(context)])
                + context
            )
            return hmac.digest(secret, info + b"\x01", "sha256")[:length]

        pair = make_pair()
        exporter = pair.server._connection._exporter
        assert exporter is not None
        derived = expand_label(exporter._secret, b"label", hashlib.sha256(b"").digest(), 32)
        expected = expand_label(derived, b"exporter", hashlib.sha256(b"ctx").digest(), 32)
        assert exporter.export(b"label", b"ctx", 32) == expected


def test_limits_are_defaults_unless_given() -> None:
    settings = ServerSettings(
        applications=APPLICATIONS, certificates=CertificateStore(server_identity())
    )
    assert settings.limits == QuicLimits()

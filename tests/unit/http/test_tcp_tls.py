"""TLS for TCP, in memory: certificates by name, ALPN, client certificates."""

import ssl
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from masque_relay.config.dev_pki import certificate_pem, key_pem, make_ca, make_leaf, new_key
from masque_relay.http.tcp_tls import CertificateFiles, ServerTls, build_server_context, peer_chain


class Site:
    """A CA with a certificate per name."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._key = new_key()
        self._ca = make_ca(self._key)
        self.ca_pem = certificate_pem(self._ca).decode()

    def files(self, *names: str) -> CertificateFiles:
        key = new_key()
        leaf = make_leaf(key, self._ca, self._key, names=names)
        certificate_file = self._directory / f"{names[0]}.pem"
        key_file = self._directory / f"{names[0]}.key"
        certificate_file.write_bytes(certificate_pem(leaf))
        key_file.write_bytes(key_pem(key))
        return CertificateFiles(
            certificate_file=certificate_file, key_file=key_file, names=frozenset(names)
        )


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def handshake(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext, name: str | None
) -> tuple[ServerTls, ssl.SSLObject]:
    """Shake hands in memory; raise what either side raises."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = server_context.wrap_bio(to_server, to_client, server_side=True)
    client = client_context.wrap_bio(to_client, to_server, server_hostname=name)
    for _ in range(4):
        for side in (client, server):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    with_pending = to_client.read()
    assert server.version(), "the handshake is not complete"
    to_client.write(with_pending)
    assert isinstance(server, ServerTls)
    return server, client


def trusting(site: Site, *alpn: str) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=site.ca_pem)
    if alpn:
        context.set_alpn_protocols(list(alpn))
    return context


@pytest.mark.parametrize(
    ("name", "leaf"),
    [
        ("a.example", "a.example"),
        ("A.EXAMPLE", "a.example"),
        ("b.example", "b.example"),
        ("x.wild.example", "*.wild.example"),
        ("unknown.example", "a.example"),
    ],
)
def test_certificate_is_chosen_by_name(site: Site, name: str, leaf: str) -> None:
    identities = [site.files(names) for names in ("a.example", "b.example", "*.wild.example")]
    client_context = trusting(site)
    client_context.check_hostname = False
    server, client = handshake(build_server_context(identities), client_context, name)

    presented = client.getpeercert()
    assert presented is not None
    assert ("DNS", leaf) in presented["subjectAltName"]
    assert server.client_server_name is not None
    assert server.client_server_name.lower() == name.lower()


def test_unknown_name_can_be_refused(site: Site) -> None:
    context = build_server_context([site.files("a.example")], refuse_unknown_names=True)

    handshake(context, trusting(site), "a.example")
    with pytest.raises(ssl.SSLError, match=r"(?i)unrecognized|callback"):
        handshake(context, trusting(site), "b.example")


@pytest.mark.parametrize(
    ("offered", "agreed"),
    [
        (("h2", "http/1.1"), "h2"),
        (("http/1.1", "h2"), "h2"),
        (("http/1.1",), "http/1.1"),
        (("imap",), None),
        ((), None),
    ],
)
def test_http2_is_preferred(site: Site, offered: tuple[str, ...], agreed: str | None) -> None:
    context = build_server_context([site.files("a.example")])
    server, _ = handshake(context, trusting(site, *offered), "a.example")

    assert server.selected_alpn_protocol() == agreed


def test_tls_older_than_1_2_is_refused(site: Site) -> None:
    assert build_server_context([site.files("a.example")]).minimum_version >= ssl.TLSVersion.TLSv1_2


class ClientCa:
    """Vouches for clients."""

    def __init__(self) -> None:
        self._key = new_key()
        self._ca = make_ca(self._key)
        self.pem = certificate_pem(self._ca)

    def certificate(self) -> tuple[bytes, bytes]:
        """Return the DER of a leaf, and the PEM of it with its key."""
        key = new_key()
        leaf = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(self._ca.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(self._ca.not_valid_before_utc)
            .not_valid_after(self._ca.not_valid_after_utc)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName("me")]), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        pem = certificate_pem(leaf) + key_pem(key)
        return leaf.public_bytes(serialization.Encoding.DER), pem


class TestClientCertificates:
    def client_with(self, site: Site, authority: ClientCa, tmp_path: Path) -> ssl.SSLContext:
        """A client whose own key the authority vouches for."""
        self.leaf_der, pem = authority.certificate()
        file = tmp_path / "client.pem"
        file.write_bytes(pem)
        context = trusting(site)
        context.load_cert_chain(file)
        return context

    def test_presented_certificate_is_what_the_gate_gets(self, site: Site, tmp_path: Path) -> None:
        authority = ClientCa()
        context = build_server_context(
            [site.files("a.example")], client_ca_pem=authority.pem, asks_for_certificate=True
        )
        client_context = self.client_with(site, authority, tmp_path)
        server, _ = handshake(context, client_context, "a.example")

        assert peer_chain(server)[0] == self.leaf_der

    def test_client_may_go_without(self, site: Site) -> None:
        context = build_server_context(
            [site.files("a.example")], client_ca_pem=ClientCa().pem, asks_for_certificate=True
        )
        server, _ = handshake(context, trusting(site), "a.example")

        assert peer_chain(server) == ()

    def test_required_certificate_is_required(self, site: Site) -> None:
        context = build_server_context(
            [site.files("a.example")],
            client_ca_pem=ClientCa().pem,
            asks_for_certificate=True,
            requires_certificate=True,
        )
        with pytest.raises(ssl.SSLError, match=r"(?i)certificate"):
            handshake(context, trusting(site), "a.example")

    def test_certificate_of_another_authority_is_refused(self, site: Site, tmp_path: Path) -> None:
        context = build_server_context(
            [site.files("a.example")], client_ca_pem=ClientCa().pem, asks_for_certificate=True
        )
        client_context = self.client_with(site, ClientCa(), tmp_path)
        with pytest.raises(ssl.SSLError):
            handshake(context, client_context, "a.example")


def test_files_that_do_not_belong_together(site: Site) -> None:
    one, other = site.files("a.example"), site.files("b.example")
    mixed = CertificateFiles(
        certificate_file=one.certificate_file, key_file=other.key_file, names=one.names
    )

    with pytest.raises(ssl.SSLError):
        build_server_context([mixed])


def test_a_note_goes_behind_the_chain_and_disturbs_nobody(site: Site, tmp_path: Path) -> None:
    files, note = site.files("a.example"), site.files("note.example").certificate_file
    context = build_server_context([replace(files, note_pem=note.read_bytes())])
    _, client = handshake(context, trusting(site), "a.example")
    inner: Any = getattr(client, "_sslobj")  # noqa: B009  (public from Python 3.13 on)
    chain = [ssl.PEM_cert_to_DER_cert(item.public_bytes()) for item in inner.get_unverified_chain()]
    assert chain == [
        ssl.PEM_cert_to_DER_cert(path.read_text()) for path in (files.certificate_file, note)
    ]

"""Owns the tests of what the client checks and shows: the same over QUIC and over TCP."""

import ssl
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from masque_relay.client.client_tls import quic_tls, tcp_tls
from masque_relay.client.credentials import Bearer, MutualTls
from masque_relay.client.errors import CredentialError
from tests.support.client_certificates import Authority

H2 = ("h2",)


def test_the_chain_and_the_name_are_checked_with_public_roots() -> None:
    context = tcp_tls(None, None, H2)
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
    assert context.minimum_version >= ssl.TLSVersion.TLSv1_2
    assert len(context.get_ca_certs()) > 50


def test_a_ca_file_stands_alone(tmp_path: Path) -> None:
    ca_file = tmp_path / "ca.pem"
    ca_file.write_bytes(Authority.make("Ours").pem)
    context = tcp_tls(ca_file, None, H2)
    assert len(context.get_ca_certs()) == 1
    assert quic_tls(ca_file, None).ca_pem == ca_file.read_bytes()


@pytest.mark.parametrize("text", ["", "-----BEGIN CERTIFICATE-----\nAA==\n"])
def test_a_ca_file_without_a_certificate_is_named(tmp_path: Path, text: str) -> None:
    ca_file = tmp_path / "broken.pem"
    ca_file.write_text(text)
    with pytest.raises(CredentialError, match=r"broken\.pem"):
        tcp_tls(ca_file, None, H2)


def test_a_client_certificate_is_loaded_and_other_credentials_are_ignored(tmp_path: Path) -> None:
    authority = Authority.make()
    key = authority.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    certificate_file, key_file = tmp_path / "c.pem", tmp_path / "k.pem"
    certificate_file.write_bytes(authority.pem)
    key_file.write_bytes(key)
    credential = MutualTls(certificate_file=certificate_file, key_file=key_file)
    assert quic_tls(None, credential).identity is not None
    tcp_tls(None, credential, H2)
    tcp_tls(None, Bearer(token="t"), H2)


def test_a_key_of_another_certificate_is_told(tmp_path: Path) -> None:
    one, other = Authority.make(), Authority.make()
    certificate_file, key_file = tmp_path / "c.pem", tmp_path / "k.pem"
    certificate_file.write_bytes(one.pem)
    key_file.write_bytes(other.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    with pytest.raises(CredentialError, match=r"c\.pem"):
        tcp_tls(None, MutualTls(certificate_file=certificate_file, key_file=key_file), H2)

"""config/dev_pki.py: certificates that strict verifiers take (RFC 5280)."""

from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

import pytest
from cryptography import x509
from cryptography.x509.verification import PolicyBuilder, Store

from masque_relay.config.dev_pki import LEAF_LIFETIME, is_fresh, make_ca, make_leaf, new_key

NOW = datetime(2030, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def chain() -> tuple[x509.Certificate, x509.Certificate]:
    ca_key = new_key()
    ca = make_ca(ca_key, now=NOW)
    return ca, make_leaf(new_key(), ca, ca_key, now=NOW)


@pytest.mark.parametrize(
    "subject",
    [
        x509.DNSName("localhost"),
        x509.IPAddress(ip_address("127.0.0.1")),
        x509.IPAddress(ip_address("::1")),
    ],
    ids=str,
)
def test_a_strict_verifier_accepts_the_leaf_for_the_local_host(
    chain: tuple[x509.Certificate, x509.Certificate], subject: x509.DNSName | x509.IPAddress
) -> None:
    ca, leaf = chain
    verifier = PolicyBuilder().store(Store([ca])).time(NOW).build_server_verifier(subject)
    assert verifier.verify(leaf, []) == [leaf, ca]


def test_key_identifiers_link_the_leaf_to_the_ca(
    chain: tuple[x509.Certificate, x509.Certificate],
) -> None:
    ca, leaf = chain
    issuer = leaf.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    own = ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    assert issuer.key_identifier == own.digest


def test_a_leaf_is_renewed_well_before_it_expires(
    chain: tuple[x509.Certificate, x509.Certificate],
) -> None:
    _, leaf = chain
    assert is_fresh(leaf, now=NOW)
    assert is_fresh(leaf, now=NOW + LEAF_LIFETIME - timedelta(days=31))
    assert not is_fresh(leaf, now=NOW + LEAF_LIFETIME - timedelta(days=29))
    assert not is_fresh(leaf, now=NOW - timedelta(days=1))

"""Attacks on revocation: what has been taken back must not come back in another coat."""

from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.utils import (
    decode_dss_signature,
    encode_dss_signature,
)

from masque_relay.contract.request import ClientCertificate
from masque_relay.contract.verdict import DenyReason
from masque_relay.control.settings import MtlsSettings
from tests.support.client_certificates import Authority
from tests.support.gates import GateBench

P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


def with_the_other_signature(der: bytes) -> bytes:
    """Return the same certificate with the other valid signature: (r, n - s) for (r, s).

    Anybody can do this to an ECDSA signature, without any key.
    """
    old = x509.load_der_x509_certificate(der).signature
    r, s = decode_dss_signature(old)
    new = encode_dss_signature(r, P256_ORDER - s)
    inner, growth = der.removesuffix(old), len(new) - len(old)
    assert inner[:2] == b"\x30\x82"
    assert inner[-3:-1] == bytes([0x03, len(old) + 1])
    outer_bytes = int.from_bytes(inner[2:4], "big") + growth
    bits_head = bytes([0x03, len(new) + 1, 0x00])
    return b"\x30\x82" + outer_bytes.to_bytes(2, "big") + inner[4:-3] + bits_head + new


@pytest.fixture
def authority() -> Authority:
    return Authority.make()


@pytest.fixture
def bench(tmp_path: Path, authority: Authority) -> GateBench:
    (tmp_path / "ca.pem").write_bytes(authority.pem)
    bench = GateBench(tmp_path)
    bench.reload(mtls=MtlsSettings(ca_files=(tmp_path / "ca.pem",)))
    return bench


async def test_a_revoked_certificate_with_its_other_signature_stays_revoked(
    bench: GateBench, authority: Authority
) -> None:
    der = authority.issue(x509.RFC822Name("alice@example.org"))
    twin = with_the_other_signature(der)
    assert twin != der
    lease = await bench.open(bench.request(credentials=(ClientCertificate(chain_der=(der,)),)))
    bench.gate.revoke(subject=None, token_id=lease.principal.token_id)
    for chain in ((der,), (twin,)):
        denial = await bench.denied(
            bench.request(credentials=(ClientCertificate(chain_der=chain),))
        )
        assert denial.reason is DenyReason.REVOKED, chain == (twin,)


async def test_a_second_certificate_of_the_same_person_is_another_credential(
    bench: GateBench, authority: Authority
) -> None:
    first, second = (authority.issue(x509.RFC822Name("alice@example.org")) for _ in range(2))
    lease = await bench.open(bench.request(credentials=(ClientCertificate(chain_der=(first,)),)))
    bench.gate.revoke(subject=None, token_id=lease.principal.token_id)
    other = await bench.open(bench.request(credentials=(ClientCertificate(chain_der=(second,)),)))
    assert other.principal.token_id != lease.principal.token_id

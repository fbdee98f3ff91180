"""Client certificates: who may issue them, what they are for, whom they name."""

from dataclasses import replace
from pathlib import Path

import pytest
from cryptography import x509
from hypothesis import example, given
from hypothesis import strategies as st

from masque_relay.contract.errors import ConfigError
from masque_relay.contract.verdict import Denial, DenyReason
from masque_relay.control.auth.mtls import MtlsAuthenticator, load_mtls
from masque_relay.control.auth.principal import CredentialKind, Principal
from masque_relay.control.settings import MtlsSettings, SubjectField
from tests.support.client_certificates import SERVER_USE, Authority
from tests.support.gates import NOW_S

CA = Authority.make()
OTHER_CA = Authority.make("Other CA")
INTERMEDIATE = Authority.make("Intermediate", CA)
SETTINGS = MtlsSettings(ca_files=(Path("ca.pem"),))
EMAIL = x509.RFC822Name("alice@example.org")
URI = x509.UniformResourceIdentifier("spiffe://example.org/alice")


@pytest.fixture
def mtls() -> MtlsAuthenticator:
    return MtlsAuthenticator(SETTINGS, [CA.certificate])


def accepted(mtls: MtlsAuthenticator, *chain: bytes, now_s: float = NOW_S) -> Principal:
    result = mtls.verify(chain, now_s=now_s)
    assert isinstance(result, Principal), result
    return result


def refused(mtls: MtlsAuthenticator, *chain: bytes, now_s: float = NOW_S) -> DenyReason:
    result = mtls.verify(chain, now_s=now_s)
    assert isinstance(result, Denial), result
    return result.reason


def test_a_good_certificate_names_its_principal(mtls: MtlsAuthenticator) -> None:
    principal = accepted(mtls, CA.issue(EMAIL))
    assert principal.subject == "alice@example.org"
    assert principal.method is CredentialKind.MTLS
    assert principal.expires_s == NOW_S + 3600
    assert principal.token_id is not None
    assert principal.token_id.startswith("cert:")


@pytest.mark.parametrize(
    ("names", "common_name", "subject"),
    [
        ((URI, EMAIL), "cn", "spiffe://example.org/alice"),
        ((EMAIL, x509.DNSName("a.example")), "cn", "alice@example.org"),
        ((x509.DNSName("a.example"),), "cn", "a.example"),
        ((), "cn", "cn"),
    ],
)
def test_the_first_field_of_the_rule_that_is_present_names_the_subject(
    mtls: MtlsAuthenticator, names: tuple[x509.GeneralName, ...], common_name: str, subject: str
) -> None:
    assert accepted(mtls, CA.issue(*names, common_name=common_name)).subject == subject


def test_the_rule_can_be_another() -> None:
    settings = replace(SETTINGS, subject_fields=(SubjectField.COMMON_NAME,))
    mtls = MtlsAuthenticator(settings, [CA.certificate])
    assert accepted(mtls, CA.issue(EMAIL, common_name="cn")).subject == "cn"
    assert refused(mtls, CA.issue(EMAIL)) is DenyReason.CREDENTIAL_INVALID


def test_a_chain_over_an_intermediate_counts_only_with_the_intermediate(
    mtls: MtlsAuthenticator,
) -> None:
    leaf = INTERMEDIATE.issue(EMAIL)
    assert accepted(mtls, leaf, INTERMEDIATE.der).subject == "alice@example.org"
    assert refused(mtls, leaf) is DenyReason.CREDENTIAL_INVALID


@pytest.mark.parametrize(
    ("chain", "reason"),
    [
        pytest.param((OTHER_CA.issue(EMAIL),), DenyReason.CREDENTIAL_INVALID, id="other-ca"),
        pytest.param(
            (OTHER_CA.issue(EMAIL), OTHER_CA.der), DenyReason.CREDENTIAL_INVALID, id="brought-ca"
        ),
        pytest.param((CA.issue(EMAIL, ends_s=0),), DenyReason.CREDENTIAL_EXPIRED, id="expired"),
        pytest.param((CA.issue(EMAIL, begins_s=60),), DenyReason.CREDENTIAL_INVALID, id="not-yet"),
        pytest.param((CA.issue(EMAIL, uses=()),), DenyReason.CREDENTIAL_INVALID, id="no-eku"),
        pytest.param(
            (CA.issue(EMAIL, uses=SERVER_USE),), DenyReason.CREDENTIAL_INVALID, id="server-eku"
        ),
        pytest.param(
            (CA.issue(EMAIL, is_authority=True),), DenyReason.CREDENTIAL_INVALID, id="a-ca"
        ),
        pytest.param((CA.der,), DenyReason.CREDENTIAL_INVALID, id="the-ca-itself"),
        pytest.param((CA.issue(EMAIL, EMAIL),), DenyReason.CREDENTIAL_INVALID, id="two-subjects"),
        pytest.param((CA.issue(),), DenyReason.CREDENTIAL_INVALID, id="no-subject"),
        pytest.param(
            (CA.issue(common_name="a\nb"),), DenyReason.CREDENTIAL_INVALID, id="unprintable"
        ),
        pytest.param((), DenyReason.CREDENTIAL_INVALID, id="empty-chain"),
        pytest.param((b"",), DenyReason.CREDENTIAL_INVALID, id="empty"),
        pytest.param((b"x" * 20_000,), DenyReason.CREDENTIAL_INVALID, id="huge"),
        pytest.param(
            (CA.issue(EMAIL), *([CA.der] * 6)), DenyReason.CREDENTIAL_INVALID, id="long-chain"
        ),
        pytest.param((CA.issue(EMAIL), b"junk"), DenyReason.CREDENTIAL_INVALID, id="junk-after"),
    ],
)
def test_anything_else_is_refused(
    mtls: MtlsAuthenticator, chain: tuple[bytes, ...], reason: DenyReason
) -> None:
    assert refused(mtls, *chain) is reason


def test_what_is_remembered_expires_with_the_certificate(mtls: MtlsAuthenticator) -> None:
    leaf = CA.issue(EMAIL, ends_s=30)
    accepted(mtls, leaf)
    accepted(mtls, leaf, now_s=NOW_S + 29)
    assert refused(mtls, leaf, now_s=NOW_S + 30) is DenyReason.CREDENTIAL_EXPIRED


def test_trust_ends_with_the_ca(mtls: MtlsAuthenticator) -> None:
    principal = accepted(mtls, INTERMEDIATE.issue(EMAIL), INTERMEDIATE.der)
    assert mtls.still_trusts(principal)
    assert not MtlsAuthenticator(SETTINGS, [OTHER_CA.certificate]).still_trusts(principal)


def test_the_cas_are_loaded_from_bundles(tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    file.write_bytes(OTHER_CA.pem + CA.pem)
    accepted(load_mtls(replace(SETTINGS, ca_files=(file,))), CA.issue(EMAIL))


def test_every_problem_of_the_ca_files_is_reported_together(tmp_path: Path) -> None:
    leaf = x509.load_der_x509_certificate(CA.issue(EMAIL))
    (tmp_path / "leaf.pem").write_bytes(Authority(certificate=leaf, key=CA.key).pem)
    (tmp_path / "empty.pem").write_bytes(b"")
    names = ("leaf.pem", "empty.pem", "missing.pem")
    with pytest.raises(ConfigError) as caught:
        load_mtls(replace(SETTINGS, ca_files=tuple(tmp_path / name for name in names)))
    details = [problem.detail for problem in caught.value.problems]
    assert details[0] == "certificate 1 is not a CA"
    assert details[1] == "no PEM certificate"
    assert details[2].startswith("can't be read")
    with pytest.raises(ConfigError, match="at least one CA file"):
        load_mtls(replace(SETTINGS, ca_files=()))


GOOD = CA.issue(EMAIL)


@example(position=12, change=1)  # a version that does not exist
@given(st.integers(0, len(GOOD) - 1), st.integers(1, 255))
def test_no_changed_byte_makes_it_raise_or_count(position: int, change: int) -> None:
    mtls = MtlsAuthenticator(SETTINGS, [CA.certificate])
    broken = GOOD[:position] + bytes([GOOD[position] ^ change]) + GOOD[position + 1 :]
    assert isinstance(mtls.verify((broken,), now_s=NOW_S), Denial)

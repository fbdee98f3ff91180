"""server/material.py: keys, certificates and the admin token, read before anything changes."""

from collections.abc import Callable
from pathlib import Path

import pytest

from masque_relay.config import RelayConfig, load_config
from masque_relay.config.dev_state import DevState, prepare_dev_state
from masque_relay.contract.errors import ConfigError
from masque_relay.quic.tls import ClientCertificates
from masque_relay.server.material import load_material


@pytest.fixture
def state(tmp_path: Path) -> DevState:
    return prepare_dev_state(tmp_path)


def config_with(state: DevState, text: str = "") -> RelayConfig:
    state.config_file.write_text(state.config_file.read_text() + text)
    return load_config(state.config_file, environ={})


def test_a_development_state_is_complete(state: DevState) -> None:
    material = load_material(config_with(state))
    assert "localhost" in material.certificate.names
    assert material.client_certificates is ClientCertificates.IGNORED
    assert material.admin_token == state.admin_token_file.read_text().strip()


def test_secrets_are_in_no_representation(state: DevState) -> None:
    material = load_material(config_with(state))
    assert material.admin_token not in repr(material)
    assert "retry_keys" not in repr(material)


def test_relays_with_the_same_secret_file_share_their_keys(state: DevState) -> None:
    (state.directory / "shared").write_bytes(b"s" * 32)
    (state.directory / "older").write_bytes(b"o" * 40)
    config = config_with(state)
    alone = config.model_copy(
        update={"listen": config.listen.model_copy(update={"secret_files": ()})}
    )
    shared = config.model_copy(
        update={
            "listen": config.listen.model_copy(
                update={"secret_files": (state.directory / "shared", state.directory / "older")}
            )
        }
    )
    one, other = load_material(shared).secrets, load_material(shared).secrets
    assert one == other
    assert len(one.retry_keys) == 2
    assert one.reset_key not in one.retry_keys
    assert b"s" * 32 not in one.retry_keys
    assert load_material(alone).secrets != load_material(alone).secrets


def absent_key(state: DevState) -> None:
    state.key_file.unlink()


def foreign_key(state: DevState) -> None:
    state.key_file.write_bytes(state.ca_key_file.read_bytes())


def short_token(state: DevState) -> None:
    state.admin_token_file.write_text("short\n")


def huge_certificate(state: DevState) -> None:
    state.certificate_file.write_bytes(b"x" * 2_000_000)


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (absent_key, r"key\.pem: tls\.key_file: can't be read: No such file"),
        (foreign_key, r"cert\.pem: tls\.certificate_file: with key\.pem: .*does not belong"),
        (short_token, r"admin-token: admin\.token_file: must hold at least 16 .*openssl rand"),
        (huge_certificate, r"cert\.pem: tls\.certificate_file: is larger than"),
    ],
)
def test_a_bad_file_is_named_with_its_key(
    state: DevState, damage: Callable[[DevState], None], expected: str
) -> None:
    config = config_with(state)
    damage(state)
    with pytest.raises(ConfigError, match=expected):
        load_material(config)


def test_all_bad_files_are_named_together(state: DevState) -> None:
    config = config_with(state)
    absent_key(state)
    short_token(state)
    with pytest.raises(ConfigError) as caught:
        load_material(config)
    assert [problem.key_path for problem in caught.value.problems] == [
        "tls.key_file",
        "admin.token_file",
    ]


def test_a_short_shared_secret_is_refused(state: DevState) -> None:
    state.quic_secret_file.write_bytes(b"s" * 31)
    with pytest.raises(ConfigError, match="has 31 bytes, 32 are needed"):
        load_material(config_with(state))


@pytest.mark.parametrize(
    ("required", "expected"),
    [("false", ClientCertificates.OPTIONAL), ("true", ClientCertificates.REQUIRED)],
)
def test_mtls_asks_clients_for_certificates(
    state: DevState, required: str, expected: ClientCertificates
) -> None:
    text = state.config_file.read_text().replace(
        "[tls]", f"[tls]\nrequire_client_certificate = {required}"
    )
    state.config_file.write_text(text)
    material = load_material(config_with(state, '\n[gate.mtls]\nca_files = ["ca.pem"]\n'))
    assert material.client_certificates is expected
    assert material.client_ca_pem == state.ca_file.read_bytes()

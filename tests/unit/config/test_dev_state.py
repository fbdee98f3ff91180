"""config/dev_state.py: what a development relay is made of."""

import stat
from pathlib import Path

import pytest

from masque_relay.config import load_config
from masque_relay.config.dev_state import TOKEN_LIFETIME_S, DevState, prepare_dev_state
from masque_relay.contract.errors import ConfigError
from masque_relay.control.auth.tokens import read_token
from masque_relay.control.policy.load import load_policy

NOW_S = 1_800_000_000.0


def contents(state: DevState) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in state.directory.iterdir()}


def test_the_first_start_makes_a_configuration_that_loads_and_a_policy_that_passes(
    tmp_path: Path,
) -> None:
    state = prepare_dev_state(tmp_path / "state")
    config = load_config(state.config_file, environ={})
    assert config.tls.certificate_file == state.certificate_file
    assert config.admin.token_file == state.admin_token_file
    assert config.listen.secret_files == (state.quic_secret_file,)
    assert load_policy(state.policy_file).warnings == ()


def test_a_second_start_changes_nothing(tmp_path: Path) -> None:
    first = contents(prepare_dev_state(tmp_path, now_s=NOW_S))
    assert contents(prepare_dev_state(tmp_path, now_s=NOW_S)) == first


def test_what_a_person_edited_is_kept(tmp_path: Path) -> None:
    state = prepare_dev_state(tmp_path)
    state.policy_file.write_text("# mine\n")
    assert prepare_dev_state(tmp_path).policy_file.read_text() == "# mine\n"


def test_secrets_are_for_their_owner_only(tmp_path: Path) -> None:
    state = prepare_dev_state(tmp_path / "state")
    assert stat.S_IMODE(state.directory.stat().st_mode) == 0o700
    for path in (
        state.ca_key_file,
        state.key_file,
        state.signing_key_file,
        state.token_file,
        state.admin_token_file,
        state.quic_secret_file,
    ):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


def test_a_token_that_is_about_to_expire_is_made_anew(tmp_path: Path) -> None:
    state = prepare_dev_state(tmp_path, now_s=NOW_S)
    old = state.token_file.read_text()
    prepare_dev_state(tmp_path, now_s=NOW_S + TOKEN_LIFETIME_S - 3600)
    new = state.token_file.read_text()
    assert new != old
    expiry_s = read_token(new.strip()).claims["exp"]
    assert expiry_s == NOW_S + 2 * TOKEN_LIFETIME_S - 3600


def test_a_certificate_without_its_key_is_made_anew_by_the_same_ca(tmp_path: Path) -> None:
    state = prepare_dev_state(tmp_path)
    before = contents(state)
    state.key_file.unlink()
    after = contents(prepare_dev_state(tmp_path))
    assert after["cert.pem"] != before["cert.pem"]
    assert after["ca.pem"] == before["ca.pem"]


def test_a_damaged_ca_is_reported_and_not_replaced(tmp_path: Path) -> None:
    state = prepare_dev_state(tmp_path)
    state.ca_file.write_text("not a certificate")
    with pytest.raises(ConfigError, match=r"ca\.pem.*remove both"):
        prepare_dev_state(tmp_path)


def test_a_directory_that_is_a_file_is_reported(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(ConfigError, match="--state-dir"):
        prepare_dev_state(blocked)

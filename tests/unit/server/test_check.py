"""server/check.py: the dry run of `ghostctl relay check-config`."""

from pathlib import Path

import pytest

from masque_relay.config import load_config
from masque_relay.config.dev_state import prepare_dev_state
from masque_relay.contract.errors import ConfigError
from masque_relay.server.check import check_files


def test_a_good_state_passes(tmp_path: Path) -> None:
    check_files(load_config(prepare_dev_state(tmp_path).config_file, environ={}))


def test_problems_of_policy_keys_and_certificates_are_told_together(tmp_path: Path) -> None:
    state = prepare_dev_state(tmp_path)
    state.certificate_file.write_text("nonsense")
    (tmp_path / "signing.pub.pem").write_text("nonsense")
    state.policy_file.write_text("[[rule]]\nnam = 'x'\n")
    with pytest.raises(ConfigError) as caught:
        check_files(load_config(state.config_file, environ={}))
    text = str(caught.value)
    for file in ("cert.pem", "signing.pub.pem", "policy.toml:2: rule[0].nam"):
        assert file in text

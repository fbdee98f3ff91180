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


def test_other_derp_servers_without_a_mesh_key_are_a_mistake_with_its_place(tmp_path: Path) -> None:
    state = prepare_dev_state(tmp_path)
    text = state.config_file.read_text()
    state.config_file.write_text(text + '[derp]\nmesh_with = ["https://other.example/derp"]\n')
    line = state.config_file.read_text().splitlines().index("[derp]") + 2
    with pytest.raises(ConfigError) as caught:
        load_config(state.config_file, environ={})
    assert f"relay.toml:{line}: derp.mesh_with: needs derp.mesh_key_file too" in str(caught.value)


def test_a_ca_file_for_other_derp_servers_that_is_none_is_found(tmp_path: Path) -> None:
    state = prepare_dev_state(tmp_path)
    (tmp_path / "mesh.key").write_text("ab" * 32)
    state.config_file.write_text(
        state.config_file.read_text()
        + """[derp]
enabled = true
mesh_key_file = "mesh.key"
mesh_with = ["https://other.example/derp"]
mesh_ca_file = "mesh.key"
"""
    )
    with pytest.raises(ConfigError, match=r"derp\.mesh_ca_file: the CA file .* no PEM"):
        check_files(load_config(state.config_file, environ={}))

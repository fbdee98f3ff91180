"""server/reload.py: what changed, and what needs a restart."""

from collections.abc import Callable
from pathlib import Path

import pytest

from masque_relay.config import load_config
from masque_relay.config.dev_state import DevState, prepare_dev_state
from masque_relay.control.auth.keys import generate_signing_key
from masque_relay.server.material import load_material
from masque_relay.server.reload import InForce, changes, in_force, needs_restart


@pytest.fixture
def state(tmp_path: Path) -> DevState:
    return prepare_dev_state(tmp_path)


def current(state: DevState, policy_digest: str = "p") -> InForce:
    config = load_config(state.config_file, environ={})
    return in_force(config, load_material(config), policy_digest)


def append(text: str) -> Callable[[DevState], None]:
    def change(state: DevState) -> None:
        state.config_file.write_text(state.config_file.read_text() + text)

    return change


def other_signing_key(state: DevState) -> None:
    (state.directory / "signing.pub.pem").write_bytes(generate_signing_key().public_pem())


def other_certificate(state: DevState) -> None:
    state.certificate_file.unlink()
    prepare_dev_state(state.directory)


def test_nothing_changed_is_nothing(state: DevState) -> None:
    assert changes(current(state), current(state)) == ()


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (other_signing_key, ("keys",)),
        (other_certificate, ("certificate",)),
        (append("[quic.limits]\nmax_connections = 5\n"), ("limits",)),
        (append("[gate.limits]\nmax_tunnels = 5\n"), ("limits",)),
        (append("[http]\nbody_timeout_s = 5\n"), ("limits",)),
        (append("[dns]\nprefer = 'ipv4-only'\n"), ()),
    ],
)
def test_what_differs_is_named(
    state: DevState, change: Callable[[DevState], None], expected: tuple[str, ...]
) -> None:
    before = current(state)
    change(state)
    assert changes(before, current(state)) == expected


def test_a_policy_is_told_by_its_digest(state: DevState) -> None:
    assert changes(current(state, "one"), current(state, "two")) == ("policy",)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ()),
        ("[quic.limits]\nmax_connections = 5\n", ()),
        ("[dns]\nprefer = 'ipv4-only'\n", ("dns",)),
        ("[egress]\nipv4 = '192.0.2.1'\n", ("egress",)),
        ("[connect_udp]\nproxy_name = 'x'\n", ("connect_udp",)),
        ("[quic]\nqlog_dir = 'qlog'\n", ("quic.qlog_dir",)),
        ("[connect_ip]\nenabled = true\n", ("connect_ip",)),
    ],
)
def test_what_is_read_at_start_only_is_told(
    state: DevState, text: str, expected: tuple[str, ...]
) -> None:
    running = load_config(state.config_file, environ={})
    append(text)(state)
    assert needs_restart(running, load_config(state.config_file, environ={})) == expected

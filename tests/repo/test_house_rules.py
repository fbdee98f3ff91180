"""Owns the rules of the house that a machine can check (shape of files, mirrored tests, values)."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
PACKAGES = ("masque_relay", "fallbacks")
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
MODULES = [path for path in SOURCES if path.name != "__init__.py"]
MAX_MODULE_LINES = 500

NOT_MIRRORED: dict[str, str] = {
    "masque_relay/contract/*": "values and ports: no behaviour to test",
    "masque_relay/quic/application.py": "ports only",
    "masque_relay/*/limits.py": "documented defaults: tests/unit/config checks how they are set",
    "masque_relay/tunnels/ghostwire_*.py": (
        "two peers and a relay: tests/unit/tunnels/test_ghostwire.py"
    ),
    "masque_relay/config/ghostwire.py": (
        "documented settings: tests/unit/config, tests/integration/mesh"
    ),
    "masque_relay/client/mesh/*": "peers at a real relay: tests/integration/mesh",
    "masque_relay/cli/peer*.py": "the commands: tests/integration/mesh/test_peer_command.py",
    "masque_relay/cli/netcheck.py": "the command: tests/integration/mesh/test_netcheck.py",
    "masque_relay/tunnels/frame_stream.py": "tests/integration/mesh/test_ways.py",
    "masque_relay/server/mesh*.py": "a real relay: tests/integration/mesh",
    "masque_relay/http/ghostwire.py": "tests/integration/mesh/test_ways.py",
    "fallbacks/quic_native/*": "tests/integration/mesh/test_ways.py",
    "fallbacks/websocket/*": "tests/integration/mesh/test_nodes.py",
    "masque_relay/http/transport.py": "ports only",
    "masque_relay/http/request_stream.py": "ports only",
    "masque_relay/http/websocket_settings.py": (
        "documented defaults: tests/unit/http/test_limits.py"
    ),
    "masque_relay/http/tunnel.py": "every kind of tunnel: test_connect_udp.py, test_connect_tcp.py",
    "masque_relay/http/tcp_wire.py": "ports only",
    "masque_relay/http/tcp_limits.py": "documented defaults: tests/unit/http/test_h2_session.py",
    "masque_relay/http/tcp_connection.py": "sockets: tests/integration/http/test_tcp_front.py",
    "masque_relay/http/tcp_front.py": "sockets: tests/integration/http/test_tcp_front.py",
    "masque_relay/dataplane/tun*.py": "devices: tests/integration/netns/test_connect_ip*.py",
    "masque_relay/dataplane/n[ef]t*.py": "the kernel: tests/integration/netns/test_connect_ip*.py",
    "masque_relay/dataplane/passt_process.py": "processes: tests/integration/netns",
    "masque_relay/dataplane/userspace.py": "processes: tests/integration/netns",
    "masque_relay/dataplane/device_error.py": "an exception: no behaviour to test",
    "masque_relay/dataplane/ip_egress_settings.py": "documented defaults: tests/unit/config",
    "masque_relay/client/ip_events.py": "values: no behaviour to test",
    "masque_relay/client/tun.py": "devices: tests/integration/netns/test_connect_ip_routes.py",
    "masque_relay/dataplane/tcp_*.py": "sockets: tests/integration/dataplane/test_tcp_flows.py",
    "masque_relay/dataplane/udp_bind.py": "sockets: tests/integration/dataplane/test_udp_bind.py",
    "masque_relay/http/connect_udp_bind.py": "tests/integration/http/test_connect_udp_bind.py",
    "masque_relay/http/connect_ip_limits.py": (
        "documented defaults: tests/unit/config/test_model.py"
    ),
    "masque_relay/tunnels/ip_parts.py": "ports only",
    "masque_relay/client/byte_stream.py": "ports only",
    "masque_relay/client/turn/wire.py": "sockets: tests/integration/mesh/test_turn_way.py",
    "masque_relay/server/twin_port.py": "sockets: tests/integration/server/test_twin_port.py",
    "masque_relay/client/datagram_tunnel.py": "what it is the base of: test_{udp,ip}_tunnel.py",
    "masque_relay/wire/ghostwire_names.py": "names only",
    "masque_relay/client/http_transport.py": "ports only",
    "masque_relay/client/http_version.py": "an enum only",
    "masque_relay/client/race.py": "sockets: tests/integration/client/test_http_versions.py",
    "masque_relay/client/tcp_dial.py": "sockets: tests/integration/client/test_http_versions.py",
    "masque_relay/client/uplink.py": "sockets: tests/integration/client/test_http_versions.py",
    "masque_relay/server/upstream.py": "wiring: tests/integration/server/test_chain.py",
    "masque_relay/client/bench/own_echo.py": (
        "a process: tests/integration/client/test_bench_command.py"
    ),
    "masque_relay/client/bench/path.py": (
        "sockets: tests/integration/client/test_bench_command.py"
    ),
    "masque_relay/client/bench/run.py": (
        "a real relay: tests/integration/client/test_bench_command.py"
    ),
    "masque_relay/client/direct.py": "sockets: tests/integration/client/test_proxy_command.py",
    "masque_relay/quic/endpoint.py": "sockets: tests/integration/quic",
    "masque_relay/control/gate_build.py": "wiring: tests/unit/control/test_gate.py",
    "masque_relay/control/metric_rows.py": "a table: tests/unit/control/test_metrics.py",
    "fallbacks/derp/ports.py": "ports only",
    "fallbacks/derp/ends.py": "two members: tests/unit/fallbacks/derp/test_session.py",
    "fallbacks/derp/peers.py": "many members: tests/unit/fallbacks/derp/test_session.py",
    "fallbacks/derp/roster.py": "watchers: tests/unit/fallbacks/derp/test_session.py",
    "fallbacks/derp/outbox.py": "a slow client: tests/unit/fallbacks/derp/test_session.py",
    "fallbacks/derp/server.py": "tasks and the gate: tests/integration/derp",
    "fallbacks/derp/upgrade.py": "a real relay: tests/integration/derp",
    "fallbacks/derp/websocket.py": "a real relay: tests/integration/derp",
    "fallbacks/derp/probes.py": "a real relay: tests/integration/derp/test_ways.py",
    "masque_relay/server/derp_mesh.py": "sockets: tests/integration/derp/test_region.py",
    "masque_relay/server/derp.py": "wiring: tests/integration/derp",
    "masque_relay/config/derp.py": "documented settings: tests/unit/config, tests/integration/derp",
    "fallbacks/turn/path.py": "ports only",
    "fallbacks/turn/server.py": "sockets: tests/integration/turn/test_turn_server.py",
    "fallbacks/turn/udp_listener.py": "sockets: tests/integration/turn/test_turn_server.py",
    "fallbacks/turn/stream_listener.py": "sockets: tests/integration/turn/test_turn_server.py",
    "masque_relay/dataplane/relay_socket.py": "sockets: tests/integration/turn",
    "masque_relay/server/turn.py": "wiring: tests/integration/turn",
    "masque_relay/server/parts.py": "wiring: tests/integration/server",
    "masque_relay/server/relay.py": "life of a process: tests/integration/server",
    "masque_relay/server/serving.py": "told by a relay: tests/integration/server/test_life.py",
    "masque_relay/server/signals.py": "of a process: tests/integration/server/test_life.py",
    "masque_relay/server/surroundings.py": "ports only",
    "masque_relay/server/broker.py": "sockets: tests/integration/server/test_workers.py",
    "masque_relay/server/crew.py": "processes: tests/integration/server/test_workers.py",
    "masque_relay/server/fleet.py": "processes: tests/integration/server/test_workers.py",
    "masque_relay/server/worker.py": "a process: tests/integration/server/test_workers.py",
    "masque_relay/server/worker_process.py": "a process: tests/integration/server/test_workers.py",
    "masque_relay/server/supervisor.py": "tests/integration/server/test_worker_restart.py",
    "masque_relay/server/estate.py": "tests/integration/server/test_worker_restart.py",
    "masque_relay/server/handover.py": "tests/integration/server/test_worker_restart.py",
    "masque_relay/cli/*": "arguments -> calls: tests/integration and tests/unit/cli by command",
}
"""Modules that need no tests/unit twin, and where their tests are instead."""


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def names(paths: list[Path]) -> list[str]:
    return [relative(path) for path in paths]


@pytest.mark.parametrize("path", SOURCES, ids=names(SOURCES))
def test_module_begins_with_a_docstring_that_says_what_it_owns(path: Path) -> None:
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert docstring, f"{relative(path)} has no module docstring"
    assert len(docstring.splitlines()[0]) > 20


@pytest.mark.parametrize("path", MODULES, ids=names(MODULES))
def test_module_fits_a_reader(path: Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= MAX_MODULE_LINES, f"{relative(path)} has {lines} lines: split it by noun"


@pytest.mark.parametrize("path", MODULES, ids=names(MODULES))
def test_module_has_its_mirrored_test(path: Path) -> None:
    module = path.relative_to(ROOT)
    if any(module.match(pattern) for pattern in NOT_MIRRORED):
        return
    inside = Path(*module.parts[1:]) if module.parts[0] == "masque_relay" else module
    twin = ROOT / "tests" / "unit" / inside.with_name(f"test_{inside.name}")
    assert twin.exists(), f"{relative(path)} wants {relative(twin)}"


@pytest.mark.parametrize("path", SOURCES, ids=names(SOURCES))
def test_no_todo_without_an_issue_number(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"\b(TODO|FIXME|XXX)\b(?!\(#\d+\))", text)


@pytest.mark.parametrize("path", SOURCES, ids=names(SOURCES))
def test_every_type_ignore_names_its_code_and_reason(path: Path) -> None:
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if "type: ignore" in line or "pyright: ignore" in line:
            assert re.search(r"ignore\[[\w-]+(, ?[\w-]+)*\]\s+#\s*\w", line), (
                f"{relative(path)}:{number}: an ignore needs a code and a reason"
            )


def dataclass_decorator(node: ast.ClassDef) -> ast.expr | None:
    for decorator in node.decorator_list:
        target = decorator.func if isinstance(decorator, ast.Call) else decorator
        if isinstance(target, ast.Name) and target.id == "dataclass":
            return decorator
    return None


VALUE_MODULES = [p for p in MODULES if p.parent.name in {"wire", "contract"}]


@pytest.mark.parametrize("path", VALUE_MODULES, ids=names(VALUE_MODULES))
def test_wire_and_contract_values_have_slots(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ClassDef) and (decorator := dataclass_decorator(node)):
            keywords = (
                {k.arg: ast.unparse(k.value) for k in decorator.keywords}
                if isinstance(decorator, ast.Call)
                else {}
            )
            assert keywords.get("slots") == "True", f"{relative(path)}: {node.name} wants slots"


def test_the_top_level_is_what_a_reader_expects() -> None:
    expected = {
        "pyproject.toml", "masque_relay", "fallbacks", "tests", "interop", "nginx", "docs",
        "README.md", "Makefile", "LICENSE", "CHANGELOG.md", "SECURITY.md",
    }  # fmt: skip
    made = {"build", "dist", "state"}
    present = {path.name for path in ROOT.iterdir() if not path.name.startswith(".")}
    assert present - made == expected

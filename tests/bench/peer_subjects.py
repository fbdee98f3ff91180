"""Owns the subjects of ``make bench-peers``: which relays are compared, how each is started."""

import shlex
import shutil
import subprocess
import sys
from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from masque_relay.config.dev_state import DevState
from masque_relay.quic.accelerator import is_compiled
from tests.bench.subjects import ROOT, Subject, run_command, run_module, run_relay

OURS = "ghostwire relay"
OURS_ACCELERATED = "ghostwire relay, accelerator"
OURS_WITHOUT_OFFLOAD = "ghostwire relay, GSO/GRO off"
NAIVE = "naive aioquic proxy"
MASQUE_GO = "masque-go"

_MASQUE_GO_SOURCE = ROOT / "interop" / "peers" / "masque-go"
_MASQUE_GO_BUILD = ROOT / "build" / "masque-go"
_BUILD_DEADLINE_S = 600
_QUOTAS = {
    # The other relays let anybody open as many tunnels as there is memory for.
    "GHOSTWIRE__GATE__LIMITS__OPENS_PER_S": "10000",
    "GHOSTWIRE__GATE__LIMITS__OPEN_BURST": "10000",
    "GHOSTWIRE__GATE__LIMITS__TUNNELS_PER_SUBJECT": "10000",
    "GHOSTWIRE__QUIC__LIMITS__MAX_CONNECTIONS_PER_SOURCE": "10000",
}
_NO_OFFLOAD = {
    "GHOSTWIRE__LISTEN__SOCKET__SEGMENT_SENDS": "false",
    "GHOSTWIRE__LISTEN__SOCKET__COALESCE_RECEIVES": "false",
    "GHOSTWIRE__EGRESS__LIMITS__SEGMENT_SENDS": "false",
    "GHOSTWIRE__EGRESS__LIMITS__COALESCE_RECEIVES": "false",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """A relay of somebody else: a command that prints its UDP port and serves until its input ends.

    ``{cert}`` and ``{key}`` in the command are replaced. Its template is the well-known one of
    RFC 9298 section 2 on ``localhost``; a bearer token comes with each request.
    """

    name: str
    command: str


def parse_peer(text: str) -> Peer:
    """Return a peer out of ``NAME=COMMAND``.

    Raises:
        ValueError: it has another form.
    """
    name, equals, command = text.partition("=")
    if not (name and equals and command):
        msg = f"not NAME=COMMAND: {text}"
        raise ValueError(msg)
    return Peer(name=name, command=command)


def build_masque_go() -> Path | str:
    """Build masque-go's programs; return where they are, or why they are not."""
    if shutil.which("go") is None:
        return "masque-go is left out: there is no Go on this machine"
    _MASQUE_GO_BUILD.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        ["go", "build", "-o", str(_MASQUE_GO_BUILD), "./server", "./client", "./load"],
        cwd=_MASQUE_GO_SOURCE,
        capture_output=True,
        text=True,
        check=False,
        timeout=_BUILD_DEADLINE_S,
    )
    if done.returncode != 0:
        return f"masque-go is left out: it does not build: {done.stderr[-500:].strip()}"
    return _MASQUE_GO_BUILD


def _our_variants() -> dict[str, dict[str, str]]:
    """Return the environment of each way to run our relay; the first is pure Python."""
    pure = _QUOTAS | {"GHOSTWIRE__QUIC__LIMITS__ACCELERATOR": "false"}
    variants = {OURS: pure}
    if is_compiled():
        variants[OURS_ACCELERATED] = _QUOTAS
    return variants | {OURS_WITHOUT_OFFLOAD: pure | _NO_OFFLOAD}


@contextmanager
def run_subjects(
    directory: Path,
    state: DevState,
    *,
    cpus: frozenset[int],
    masque_go: Path | None,
    peers: Sequence[Peer],
    only: Sequence[str] = (),
) -> Generator[tuple[Subject, ...]]:
    """Start the subjects (all, or those named) on the given CPUs, and stop them at the end."""
    subjects: list[Subject] = []
    with ExitStack() as stack:

        def add(name: str, process: AbstractContextManager[tuple[int, int]]) -> None:
            if only and name not in only:
                return
            pid, port = stack.enter_context(process)
            subjects.append(Subject(name=name, pid=pid, port=port, state=state))

        for name, settings in _our_variants().items():
            place = directory / str(len(subjects))
            place.mkdir(exist_ok=True)
            add(name, run_relay(place, state, cpus=cpus, settings=settings))
        certificate = (str(state.certificate_file), str(state.key_file))
        add(NAIVE, run_module("tests.bench.naive_proxy", *certificate, cpus=cpus))
        foreign = list(peers)
        if masque_go is not None:
            command = f"{masque_go / 'server'} -cert {{cert}} -key {{key}}"
            foreign.insert(0, Peer(name=MASQUE_GO, command=command))
        for peer in foreign:
            command_line = [
                part.format(cert=certificate[0], key=certificate[1])
                for part in shlex.split(peer.command)
            ]
            add(peer.name, run_command(command_line, cpus=cpus))
        yield tuple(subjects)


def thin_load(
    masque_go: Path | None, subject: Subject, target_port: int, *, way: str, seconds: float
) -> list[str]:
    """Return the command that loads a subject with 50 connections, one datagram of each under way.

    masque-go's client where it was built: ours costs more on thin connections than a relay does.
    """
    assert subject.state is not None
    size_bytes, connections = "1200", "50"
    if masque_go is None:
        command = [sys.executable, "-m", "tests.bench.generator", way, *subject.arguments()]
        command += ["--target-port", str(target_port), "--window", "1", "--size-bytes", size_bytes]
        return [*command, "--connections", connections, "--seconds", str(seconds)]
    path = "/.well-known/masque/udp/{target_host}/{target_port}/"
    command = [str(masque_go / "load"), "-way", way, "-pid", str(subject.pid)]
    command += ["-template", f"https://localhost:{subject.port}{path}"]
    command += ["-target", f"127.0.0.1:{target_port}", "-ca", str(subject.state.ca_file)]
    command += ["-token", subject.state.token_file.read_text(encoding="utf-8").strip()]
    return [*command, "-connections", connections, "-size", size_bytes, "-seconds", str(seconds)]

"""Tests of the comparison with other relays: what it says, and that masque-go can be measured."""

import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from masque_relay.config.dev_state import DevState, prepare_dev_state
from tests.bench.peer_subjects import Peer, build_masque_go, parse_peer, run_subjects, thin_load
from tests.bench.peers import ratios
from tests.bench.report import Report
from tests.bench.subjects import ROOT, Bench, run_generator, run_json, run_module

OURS, THEIRS = "ghostwire relay", "masque-go"
CPU = "bulk up: CPU us per datagram"


def test_a_peer_is_a_name_and_a_command() -> None:
    assert parse_peer("h2o=./h2o {cert}=x") == Peer(name="h2o", command="./h2o {cert}=x")


@pytest.mark.parametrize("text", ["", "h2o", "=command", "name="])
def test_a_peer_without_name_or_command_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="NAME=COMMAND"):
        parse_peer(text)


def test_a_ratio_is_taken_within_each_round() -> None:
    report = Report()
    # In the second round the machine was three times as slow, for both.
    for ours, theirs in ((5.0, 10.0), (15.0, 30.0), (5.0, 20.0)):
        report.add(CPU, OURS, ours)
        report.add(CPU, THEIRS, theirs)
    report.add("bulk up: datagrams/s", OURS, 1.0)
    assert ratios(report, [OURS], [THEIRS]) == [
        "bulk up: ghostwire relay 2.00 x masque-go (2.00..4.00)"
    ]


def test_a_subject_that_was_left_out_has_no_ratio() -> None:
    report = Report()
    report.add(CPU, OURS, 5.0)
    assert ratios(report, [OURS], [THEIRS]) == []


@pytest.fixture(scope="module")
def programs() -> Path:
    built = build_masque_go()
    if isinstance(built, str):
        pytest.skip(built)
    return built


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> DevState:
    return prepare_dev_state(tmp_path_factory.mktemp("peers") / "state")


@pytest.fixture(scope="module")
def bench(
    programs: Path, state: DevState, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Bench]:
    cpus = frozenset(os.sched_getaffinity(0))
    directory = tmp_path_factory.mktemp("relays")
    with (
        run_module("tests.bench.target") as (_, target_port),
        run_subjects(
            directory, state, cpus=cpus, masque_go=programs, peers=(), only=(OURS, THEIRS)
        ) as subjects,
    ):
        yield Bench(subjects=subjects, target_port=target_port)


class TestMasqueGo:
    """The pinned module builds, and its programs and ours understand each other."""

    @pytest.mark.parametrize("way", ["uplink", "downlink"])
    def test_our_generator_measures_it(self, bench: Bench, way: str) -> None:
        load = ("--connections", "1", "--window", "16", "--seconds", "0.2")
        found = run_generator(bench, bench.subjects[1], way, *load)
        assert found["datagrams"] > 0

    @pytest.mark.parametrize("subject", [0, 1])
    @pytest.mark.parametrize("way", ["uplink", "downlink"])
    def test_its_client_loads_either_relay(
        self, bench: Bench, programs: Path, way: str, subject: int
    ) -> None:
        command = thin_load(
            programs, bench.subjects[subject], bench.target_port, way=way, seconds=0.3
        )
        assert run_json("thin", command)["datagrams"] > 0

    def test_its_client_carries_a_datagram_through_our_relay(
        self, bench: Bench, programs: Path, state: DevState
    ) -> None:
        path = "/.well-known/masque/udp/{target_host}/{target_port}/"
        with socket.socket(type=socket.SOCK_DGRAM) as target:
            target.bind(("127.0.0.1", 0))
            target.settimeout(20)
            command = [str(programs / "client"), "-ca", str(state.ca_file)]
            command += ["-template", f"https://localhost:{bench.subjects[0].port}{path}"]
            command += ["-target", f"127.0.0.1:{target.getsockname()[1]}"]
            command += ["-token", state.token_file.read_text(encoding="utf-8").strip()]
            client = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            assert client.stdout is not None
            with client, socket.socket(type=socket.SOCK_DGRAM) as local:
                local.settimeout(20)
                local.connect(("127.0.0.1", int(client.stdout.readline())))
                local.send(b"there")
                data, relay = target.recvfrom(100)
                assert data == b"there"
                target.sendto(b"and back", relay)
                assert local.recv(100) == b"and back"
                assert client.stdin is not None
                client.stdin.close()
                assert client.wait(20) == 0

    def test_its_client_says_with_which_status_it_was_refused(
        self, bench: Bench, programs: Path, state: DevState
    ) -> None:
        path = "/.well-known/masque/udp/{target_host}/{target_port}/"
        command = [str(programs / "client"), "-ca", str(state.ca_file), "-target", "127.0.0.1:9"]
        command += ["-template", f"https://localhost:{bench.subjects[0].port}{path}"]
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
        assert done.returncode == 1
        assert "status 401" in done.stderr


def test_the_pinned_versions_are_in_the_readme() -> None:
    place = ROOT / "interop" / "peers" / "masque-go"
    required = (place / "go.mod").read_text(encoding="utf-8")
    readme = (place / "README.md").read_text(encoding="utf-8")
    for module, name in (("masque-go", "masque-go)"), ("quic-go", "quic-go")):
        version = required.partition(f"quic-go/{module} ")[2].split()[0]
        assert f"{name} {version}" in readme

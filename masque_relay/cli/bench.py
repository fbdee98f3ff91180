"""Owns `ghostctl bench`: a running relay, an echo for that, or the source tree's benchmark."""

import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import click
from click.core import ParameterSource

import masque_relay
from masque_relay.cli.bench_echo import serve_echo
from masque_relay.cli.bench_relay import bench_relay
from masque_relay.cli.client_errors import fail_with
from masque_relay.cli.output import ExitCode, fail, json_option
from masque_relay.cli.relay_options import RelayChoice, relay_argument
from masque_relay.client import ClientError, parse_target
from masque_relay.client.bench.probe import MIN_PROBE_BYTES
from masque_relay.client.bench.report import DEFAULT_SIZES_BYTES, BenchPlan
from masque_relay.wire.connect_udp import MAX_UDP_PAYLOAD_BYTES

_DEVELOPER = frozenset({"smoke", "repetitions", "plot_file", "as_json"})
_ECHO = frozenset({"echo_listen", "max_answers_per_s", "as_json"})
_MAX_TUNNELS = 64  # most HTTP/3 servers grant 100 streams; those that are timed need some, too


@click.command()
@relay_argument
@click.option(
    "--target",
    "target_text",
    metavar="HOST:PORT",
    help="A UDP echo that the relay reaches.  [default: one of our own, on loopback]",
)
@click.option(
    "--seconds",
    type=click.FloatRange(min=0.1, max=3_600),
    default=BenchPlan().seconds,
    show_default=True,
    help="Of each measurement.",
)
@click.option(
    "--size",
    "sizes_bytes",
    type=click.IntRange(MIN_PROBE_BYTES, MAX_UDP_PAYLOAD_BYTES),
    multiple=True,
    metavar="BYTES",
    help=f"Of the datagrams; may be given again.  [default: {DEFAULT_SIZES_BYTES[0]} and"
    f" {DEFAULT_SIZES_BYTES[1]}]",
)
@click.option(
    "--tunnels",
    type=click.IntRange(1, _MAX_TUNNELS),
    default=BenchPlan().tunnels,
    show_default=True,
    help="Kept full at once, for bulk.",
)
@click.option(
    "--serve-echo",
    "echo_listen",
    metavar="ADDRESS:PORT",
    help="Measure nothing: be the echo, for a --target elsewhere.",
)
@click.option(
    "--max-answers",
    "max_answers_per_s",
    type=click.IntRange(1),
    metavar="PER_SECOND",
    help="With --serve-echo: answer no more often.  [default: no cap]",
)
@click.option(
    "--smoke",
    is_flag=True,
    help="Without RELAY, in ten seconds: shows that it works, nothing to quote.",
)
@click.option(
    "--repetitions",
    type=click.IntRange(1),
    help="Without RELAY: of every measurement.  [default: 5]",
)
@click.option(
    "--plot",
    "plot_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Without RELAY: draw the datagrams per CPU second there, as SVG.",
)
@json_option
def bench(
    chosen: RelayChoice | None,
    target_text: str | None,
    seconds: float,
    sizes_bytes: tuple[int, ...],
    tunnels: int,
    echo_listen: str | None,
    max_answers_per_s: int | None,
    smoke: bool,
    repetitions: int | None,
    plot_file: Path | None,
    as_json: bool,
) -> None:
    """Measure a running relay from here, through CONNECT-UDP tunnels to a UDP echo.

    RELAY is https://HOST:PORT. Told are the time to open a tunnel, the round trip at 200 datagrams
    a second beside the direct one, and how many datagrams a second go there and back with less
    than 1 % lost. The client bounds every figure too. Ctrl-C ends it with what there is so far.

    \b
    Examples:
      ghostctl bench https://127.0.0.1:4433 --ca state/ca.pem --token-file state/token
      ghostctl bench https://relay.example --token-file token --target echo.example:9000 \\
          --http 2 --size 1200 --tunnels 4 --json

    Without --target an echo is started here on loopback: for a relay on this machine whose policy
    allows that, as in dev mode. For any other, run the echo on a machine that the relay leads to.
    It answers this benchmark's datagrams only, each with one of the same size.

    \b
    Example, there:
      ghostctl bench --serve-echo 0.0.0.0:9000 --max-answers 100000

    Without RELAY, in a source tree: the relay beside a naive aioquic proxy and plain loopback. The
    naive proxy is not part of the installed relay. Takes about a minute per repetition; what the
    figures mean is in docs/explanation/performance.md.

    \b
    Examples, in a source tree:
      ghostctl bench --smoke
      ghostctl bench --repetitions 3 --plot figures.svg --json > figures.json

    \b
    Exit codes: 2 bad arguments, 3 refused by the relay, 4 relay unreachable or not trusted,
    5 no answer in time.
    """
    if echo_listen is not None:
        _refuse(_all() - _ECHO, "with --serve-echo")
        serve_echo(echo_listen, max_answers_per_s=max_answers_per_s, as_json=as_json)
        return
    if chosen is None:
        _refuse(_all() - _DEVELOPER, "without RELAY")
        _bench_source_tree(smoke, repetitions, plot_file, as_json=as_json)
    _refuse((_DEVELOPER | _ECHO) - {"as_json"}, "with RELAY")
    try:
        plan = BenchPlan(
            target=None if target_text is None else parse_target(target_text),
            sizes_bytes=sizes_bytes or DEFAULT_SIZES_BYTES,
            seconds=seconds,
            tunnels=tunnels,
        )
    except ClientError as error:
        fail_with(error)
    bench_relay(chosen, plan, as_json=as_json)


def _all() -> frozenset[str]:
    """Return the names of all parameters."""
    return frozenset(parameter.name or "" for parameter in bench.params)


def _refuse(names: frozenset[str], where: str) -> None:
    """Leave if the command line has one of these parameters, which mean nothing there."""
    context = click.get_current_context()
    for parameter in context.command.params:
        name = parameter.name or ""
        if name in names and context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            shown = "RELAY" if name == "relay_url" else parameter.opts[0]
            fail(f"{shown} means nothing {where}", exit_code=ExitCode.USAGE)


def _bench_source_tree(
    smoke: bool, repetitions: int | None, plot_file: Path | None, *, as_json: bool
) -> NoReturn:
    root = Path(masque_relay.__file__).parent.parent
    if not (root / "tests" / "bench" / "__main__.py").exists():
        fail(
            "the benchmark and its naive proxy are in the source tree, not in the package",
            hint="to measure a running relay, name it; else clone the repository and run "
            "`make bench` there",
        )
    # A process of its own: what is measured shares nothing with this one.
    command = [sys.executable, "-m", "tests.bench"]
    command += ["--smoke"] if smoke else []
    command += ["--repetitions", str(repetitions)] if repetitions else []
    command += ["--json"] if as_json else []
    command += ["--plot", str(plot_file.resolve())] if plot_file else []
    done = subprocess.run(command, cwd=root, check=False)  # noqa: S603 - this very interpreter
    raise SystemExit(done.returncode)

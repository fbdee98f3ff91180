"""Owns `ghostctl bench`: hands over to the benchmark of the source tree, tests/bench."""

import subprocess
import sys
from pathlib import Path

import click

import masque_relay
from masque_relay.cli.output import fail, json_option


@click.command()
@click.option(
    "--smoke", is_flag=True, help="In ten seconds: shows that it works, nothing to quote."
)
@click.option("--repetitions", type=click.IntRange(1), help="Of every measurement.  [default: 5]")
@click.option(
    "--plot",
    "plot_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Draw the datagrams per CPU second there, as SVG.",
)
@json_option
def bench(smoke: bool, repetitions: int | None, plot_file: Path | None, as_json: bool) -> None:
    """Measure the relay beside a naive aioquic proxy and plain loopback.

    \b
    Examples:
      ghostctl bench
      ghostctl bench --smoke
      ghostctl bench --repetitions 3 --plot figures.svg --json > figures.json

    Takes about a minute per repetition; --json prints every sample. What the figures mean is in
    docs/explanation/performance.md. Works in a source tree only: the naive proxy is not part of the
    installed relay.
    """
    root = Path(masque_relay.__file__).parent.parent
    if not (root / "tests" / "bench" / "__main__.py").exists():
        fail(
            "the benchmark and its naive proxy are in the source tree, not in the package",
            hint="clone the repository and run `make bench` there",
        )
    # A process of its own: what is measured shares nothing with this one.
    command = [sys.executable, "-m", "tests.bench"]
    command += ["--smoke"] if smoke else []
    command += ["--repetitions", str(repetitions)] if repetitions else []
    command += ["--json"] if as_json else []
    command += ["--plot", str(plot_file.resolve())] if plot_file else []
    done = subprocess.run(command, cwd=root, check=False)  # noqa: S603 - this very interpreter
    raise SystemExit(done.returncode)

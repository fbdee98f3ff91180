"""Owns the fuzz command: ``python -m tests.fuzz --seconds N [--target NAME] [--seed N]``.

With atheris installed each target runs under it (guided by coverage, in a process of its own);
otherwise the built-in seeded loop runs. Exit code 1 means a finding; its input is printed or
lies in ``tests/fuzz/findings/``: move it to ``tests/fuzz/corpus/TARGET/`` together with the repair.
"""

import argparse
import importlib.util
import subprocess
import sys

from masque_relay.wire.errors import WireError
from tests.fuzz.engine import CORPUS, run_target
from tests.fuzz.targets import TARGETS


def main(arguments: list[str] | None = None) -> int:
    """Run the targets one after the other, sharing the time; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="time for all targets together")
    parser.add_argument("--target", choices=sorted(TARGETS), action="append", dest="targets")
    parser.add_argument("--seed", type=int, default=0, help="of the built-in loop")
    parser.add_argument("--engine", choices=("auto", "atheris", "builtin"), default="auto")
    parser.add_argument("--under-atheris", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    names: list[str] = options.targets or sorted(TARGETS)
    seconds = options.seconds / len(names)
    if options.under_atheris:
        _fuzz_under_atheris(names[0], seconds)
    if options.engine == "auto":
        options.engine = "atheris" if importlib.util.find_spec("atheris") else "builtin"
    failed = False
    for name in names:
        if options.engine == "atheris":
            command = [sys.executable, "-m", "tests.fuzz", "--under-atheris"]
            command += ["--target", name, "--seconds", str(seconds)]
            failed |= subprocess.run(command, check=False).returncode != 0
            continue
        count, finding = run_target(name, TARGETS[name], seconds=seconds, seed=options.seed)
        sys.stdout.write(f"{name}: {count} inputs, {'FINDING' if finding else 'ok'}\n")
        if finding:
            failed = True
            sys.stdout.write(f"input (hex): {finding.data.hex()}\n{finding.trace}\n")
        sys.stdout.flush()
    return 1 if failed else 0


def _fuzz_under_atheris(name: str, seconds: float) -> None:
    """Fuzz one target and leave the process."""
    import atheris  # noqa: PLC0415  # optional

    atheris.instrument_all()
    target = TARGETS[name]

    def fuzz_one(data: bytes) -> None:
        try:
            target(data)
        except WireError:
            return

    found = CORPUS.parent / "findings" / name  # not committed: what the guide finds interesting
    found.mkdir(parents=True, exist_ok=True)
    limits = [f"-max_total_time={max(1, round(seconds))}", "-verbosity=0", "-print_final_stats=1"]
    artifacts = f"-artifact_prefix={found.parent}/{name}-"
    atheris.Setup([name, *limits, artifacts, str(found), str(CORPUS / name)], fuzz_one)
    atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main())

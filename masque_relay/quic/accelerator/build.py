"""Owns how the accelerator is compiled: ``python -m masque_relay.quic.accelerator.build``.

Needs cargo and the crates that Cargo.lock names. The result goes beside this file, so it works for
an installed package as for a source tree.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

_PLACE = Path(__file__).parent
_MODULE_FILE = _PLACE / "_native.abi3.so"


def build() -> str | None:
    """Compile it; return why it could not be, None when it is there now."""
    cargo = shutil.which("cargo")
    if cargo is None:
        return "there is no cargo on this machine: install Rust, or go on without the accelerator"
    target = os.environ.get("CARGO_TARGET_DIR")
    with tempfile.TemporaryDirectory(prefix="ghostwire-accelerator-") as directory:
        done = subprocess.run(  # noqa: S603 - cargo, and our own crate
            [cargo, "build", "--release", "--locked", "--quiet"],
            cwd=_PLACE,
            env={**os.environ, "CARGO_TARGET_DIR": target or directory},
            check=False,
        )
        if done.returncode != 0:
            return "cargo failed: the relay works without the accelerator"
        (made,) = Path(target or directory).glob("release/lib_native.*[!d]")
        # Another process may have the old one open: a new file, not new bytes in the old one.
        fresh = _MODULE_FILE.with_suffix(".new")
        shutil.copy(made, fresh)
        fresh.replace(_MODULE_FILE)
    return None


def main() -> None:
    """Compile it, and say so."""
    problem = build()
    if problem is not None:
        sys.exit(problem)
    sys.stdout.write(f"{_MODULE_FILE}\n")


if __name__ == "__main__":
    main()

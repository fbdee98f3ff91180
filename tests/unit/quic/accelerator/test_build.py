"""Compiling the accelerator fails with a sentence, never with a broken relay."""

import os
from pathlib import Path

import pytest

from masque_relay.quic.accelerator import build


def test_without_cargo_it_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    told = build.build()
    assert told is not None
    assert "no cargo" in told


def test_when_cargo_fails_what_was_there_stays(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cargo = tmp_path / "cargo"
    cargo.write_text("#!/bin/sh\nexit 1\n")
    cargo.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    module_file = tmp_path / "_native.abi3.so"
    module_file.write_bytes(b"the old one")
    monkeypatch.setattr(build, "_MODULE_FILE", module_file)
    assert build.build() == "cargo failed: the relay works without the accelerator"
    assert module_file.read_bytes() == b"the old one"


def test_what_cargo_made_takes_the_place_of_the_old(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cargo = tmp_path / "cargo"
    cargo.write_text(
        '#!/bin/sh\nmkdir -p "$CARGO_TARGET_DIR/release"\n'
        'printf new > "$CARGO_TARGET_DIR/release/lib_native.so"\n'
        'printf x > "$CARGO_TARGET_DIR/release/lib_native.d"\n'
    )
    cargo.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("CARGO_TARGET_DIR", raising=False)
    module_file = tmp_path / "_native.abi3.so"
    module_file.write_bytes(b"the old one")
    monkeypatch.setattr(build, "_MODULE_FILE", module_file)
    assert build.build() is None
    assert module_file.read_bytes() == b"new"
    assert list(tmp_path.glob("*.new")) == []

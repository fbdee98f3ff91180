"""What ghostctl prints, and how it names itself in the commands that it suggests."""

import sys
from pathlib import Path

import pytest

from masque_relay.cli.output import ExitCode, fail, print_json, print_table, program


def test_json_is_one_line_with_sorted_keys(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    print_json({"b": 1, "a": [True, None]})
    assert capfdbinary.readouterr().out == b'{"a":[true,null],"b":1}\n'


def test_a_row_of_a_table_stays_on_its_line_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    print_table("2 things", ("name", "why"), [("a", "x" * 300), ("b", "[red]no markup[/red]")])
    title, head, *rows = capsys.readouterr().out.splitlines()
    assert title.strip() == "2 things"
    assert head.split() == ["name", "why"]
    assert rows[0].split() == ["a", "x" * 300]
    assert "[red]no markup[/red]" in rows[1]


def test_an_error_says_what_to_do_next(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        fail("nobody is there", hint="start it", exit_code=ExitCode.UNREACHABLE)
    assert left.value.code == 4
    assert capsys.readouterr().err == "ghostctl: nobody is there\n  next: start it\n"


class TestProgram:
    @pytest.fixture
    def installed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """A virtual environment that has a ghostctl; the PATH knows nothing."""
        ghostctl = tmp_path / "venv" / "bin" / "ghostctl"
        ghostctl.parent.mkdir(parents=True)
        ghostctl.touch(mode=0o755)
        monkeypatch.setattr(sys, "executable", str(ghostctl.with_name("python")))
        monkeypatch.setenv("PATH", str(tmp_path))
        return ghostctl

    def test_where_the_path_does_not_find_it_it_has_its_own_path(self, installed: Path) -> None:
        assert program() == str(installed)

    def test_in_an_activated_environment_its_name_will_do(
        self, installed: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PATH", str(installed.parent))
        assert program() == "ghostctl"

    def test_another_one_on_the_path_is_not_meant(
        self, installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        other = tmp_path / "other" / "ghostctl"
        other.parent.mkdir()
        other.touch(mode=0o755)
        monkeypatch.setenv("PATH", str(other.parent))
        assert program() == str(installed)

    def test_a_path_with_a_space_can_be_typed(
        self, installed: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        spaced = installed.parent.parent / "my bin"
        installed.parent.rename(spaced)
        monkeypatch.setattr(sys, "executable", str(spaced / "python"))
        assert program() == f"'{spaced}/ghostctl'"

"""Owns what an operator is told no by: ConfigError, all problems at once, and OperationRefused."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing that is wrong in a file, an environment variable or an option."""

    detail: str
    """What is wrong, as a sentence without a full stop. Never a secret."""
    file: str | None = None
    """The file, as the operator named it."""
    line: int | None = None
    """Counted from 1; None where no single line is to blame."""
    key_path: str = ""
    """``rule[2].targets[0]``; empty when the whole file is meant."""
    hint: str | None = None
    """The next step, as a sentence without a full stop."""

    def __str__(self) -> str:
        """Return ``file:line: key.path: detail (hint)``, leaving out what is unknown."""
        place = self.file or ""
        if self.line is not None:
            place = f"{place}:{self.line}" if place else f"line {self.line}"
        parts = [part for part in (place, self.key_path, self.detail) if part]
        text = ": ".join(parts)
        return f"{text} ({self.hint})" if self.hint else text


class ConfigError(Exception):
    """The operator's input can't be used; nothing was changed.

    Attributes:
        problems: every problem found, in file order; at least one.
    """

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems: tuple[Problem, ...] = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


def leaves(errors: BaseExceptionGroup[ConfigError]) -> list[ConfigError]:
    """Return the errors of a group and of the groups in it."""
    found: list[ConfigError] = []
    for error in errors.exceptions:
        found += leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found


class OperationRefused(Exception):  # noqa: N818 - says what happened
    """The relay can't do now what its operator asks for; nothing was changed.

    Attributes:
        code: for programs, such as ``one_process``.
        hint: the next step.
        problems: one line each, where files are at fault.
    """

    def __init__(
        self, code: str, message: str, *, hint: str | None = None, problems: Sequence[str] = ()
    ) -> None:
        super().__init__(message)
        self.code = code
        self.hint = hint
        self.problems = tuple(problems)

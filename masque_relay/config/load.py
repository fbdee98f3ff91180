"""Owns reading a configuration: file, environment overrides, checks, errors that name the line."""

import dataclasses
import os
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import orjson
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from masque_relay.config.model import RelayConfig
from masque_relay.contract.errors import ConfigError, Problem
from masque_relay.control.toml_locate import KeyPath, Locator, format_key_path

ENVIRONMENT_PREFIX = "GHOSTWIRE__"
MAX_CONFIG_BYTES = 1_048_576
"""A configuration is some kilobytes; a larger file is the wrong file."""

Table = dict[str, object]


def load_config(
    path: Path,
    *,
    environ: Mapping[str, str] | None = None,
    overrides: Mapping[KeyPath, object] | None = None,
) -> RelayConfig:
    """Return the configuration in a file.

    Args:
        path: the TOML file; relative paths in it are beside it.
        environ: ``GHOSTWIRE__QUIC__LIMITS__IDLE_TIMEOUT_S=30`` sets ``quic.limits.idle_timeout_s``.
            None reads the process's environment.
        overrides: values of command-line options by key path; they win over everything.

    Raises:
        ConfigError: with every problem found.
    """
    text = _read(path)
    table = _parse(path, text)
    lines = Locator(text)
    origins = _apply_environment(table, os.environ if environ is None else environ)
    for key_path, value in (overrides or {}).items():
        _set(table, key_path, value)
    try:
        config = RelayConfig.model_validate_json(orjson.dumps(table, default=str))
    except ValidationError as error:
        raise ConfigError(
            sorted(
                _problems(error, path, lines, origins),
                key=lambda problem: (problem.line or 0, problem.key_path),
            )
        ) from None
    problems = [
        _problem_at(key_path, detail, path, lines, origins)
        for key_path, detail in _bad_numbers(config, ())
    ]
    if problems:
        raise ConfigError(problems)
    return cast("RelayConfig", _with_absolute_paths(config, path.absolute().parent))


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_CONFIG_BYTES + 1)
        if len(data) > MAX_CONFIG_BYTES:
            raise ConfigError(
                [Problem(file=str(path), detail="is too large to be a configuration")]
            )
        return data.decode()
    except OSError as error:
        raise ConfigError(
            [
                Problem(
                    file=str(path),
                    detail=f"can't be read: {error.strerror}",
                    hint="docs/howto/deploy.md has an example; --dev makes one",
                )
            ]
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError([Problem(file=str(path), detail="is not UTF-8 text")]) from error


def _parse(path: Path, text: str) -> Table:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        detail, _, place = str(error).rpartition(" (at ")
        line = place.removeprefix("line ").partition(",")[0]
        raise ConfigError(
            [
                Problem(
                    file=str(path),
                    line=int(line) if line.isdigit() else text.count("\n") + 1,
                    detail=f"is not TOML: {detail or error}",
                )
            ]
        ) from error


def _apply_environment(table: Table, environ: Mapping[str, str]) -> dict[KeyPath, str]:
    """Set what the environment says; return which variable set which key."""
    origins: dict[KeyPath, str] = {}
    for variable in sorted(environ):
        if not variable.startswith(ENVIRONMENT_PREFIX):
            continue
        key_path = tuple(variable.removeprefix(ENVIRONMENT_PREFIX).lower().split("__"))
        origins[key_path] = variable
        if not _set(table, key_path, _environment_value(environ[variable])):
            raise ConfigError(
                [Problem(file=variable, detail="names a key inside something that is no table")]
            )
    return origins


def _environment_value(text: str) -> object:
    """Read a number, truth value, list or quoted string as TOML; anything else is the text."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _set(table: Table, key_path: KeyPath, value: object) -> bool:
    *parents, last = key_path
    for name in parents:
        inner = table.setdefault(str(name), {})
        if not isinstance(inner, dict):
            return False
        table = cast("Table", inner)
    table[str(last)] = value
    return True


def _problems(
    error: ValidationError, path: Path, lines: Locator, origins: dict[KeyPath, str]
) -> Iterator[Problem]:
    for item in error.errors(include_url=False):
        # Unions and functions leave their own names in the location; only keys are of use.
        key_path = tuple(part for part in item["loc"] if isinstance(part, int) or part.islower())
        yield _problem_at(key_path, _detail(item), path, lines, origins)


def _problem_at(
    key_path: KeyPath,
    detail: str,
    path: Path,
    lines: Locator,
    origins: dict[KeyPath, str],
) -> Problem:
    variable = origins.get(key_path)
    return Problem(
        file=variable or str(path),
        line=None if variable else lines.line(key_path),
        key_path=format_key_path(key_path),
        detail=detail,
    )


def _detail(item: ErrorDetails) -> str:
    match item["type"]:
        case "extra_forbidden" | "unexpected_keyword_argument":
            return "is not a known key"
        case "missing" | "missing_keyword_only_argument" | "missing_argument":
            return "is required"
        case "value_error":
            return item["msg"].removeprefix("Value error, ")
        case _:
            return item["msg"].replace("Input should be", "must be")


def _bad_numbers(value: object, key_path: KeyPath) -> Iterator[tuple[KeyPath, str]]:
    """Find negative and non-finite numbers; no limit of any component means anything by them."""
    for name, inner in _fields(value):
        here = (*key_path, name)
        if isinstance(inner, bool):
            continue
        if isinstance(inner, int | float) and not 0 <= inner < float("inf"):
            yield here, "must be zero or more, and finite"
        elif isinstance(inner, tuple):
            for index, element in enumerate(cast("tuple[object, ...]", inner)):
                yield from _bad_numbers(element, (*here, index))
        else:
            yield from _bad_numbers(inner, here)


def _with_absolute_paths(value: object, base: Path) -> object:
    if isinstance(value, Path):
        return base / value
    if isinstance(value, tuple):
        return tuple(
            _with_absolute_paths(inner, base) for inner in cast("tuple[object, ...]", value)
        )
    fields = {name: _with_absolute_paths(inner, base) for name, inner in _fields(value)}
    if not fields:
        return value
    if isinstance(value, BaseModel):
        return value.model_copy(update=fields)
    return dataclasses.replace(cast("Any", value), **fields)


def _fields(value: object) -> list[tuple[str, object]]:
    if isinstance(value, BaseModel):
        return [(name, getattr(value, name)) for name in type(value).model_fields]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [(field.name, getattr(value, field.name)) for field in dataclasses.fields(value)]
    return []

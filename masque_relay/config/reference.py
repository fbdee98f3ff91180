"""Owns docs/reference/config.md: every key, its type, its default and its reason, from the code."""

import ast
import dataclasses
import inspect
import re
import textwrap
import types
import typing
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any, Union, cast, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from masque_relay.admin.address import UnixSocket
from masque_relay.config.load import ENVIRONMENT_PREFIX
from masque_relay.config.model import RelayConfig
from masque_relay.contract.address import Endpoint

_HEAD = f"""\
# Configuration

Generated from the code by `ghostctl relay config-reference`; do not edit by hand.

A relay reads one TOML file. It is strict: an unknown key, a value of the wrong type or a negative
limit is an error that names file, line and key, and all errors are reported at once. Relative paths
are beside the file. `ghostctl relay check-config FILE` checks a file and everything that it names.

Any key can be set by an environment variable, which wins over the file: its path in capitals, with
`__` between the parts, after `{ENVIRONMENT_PREFIX}`. For example
`{ENVIRONMENT_PREFIX}QUIC__LIMITS__IDLE_TIMEOUT_S=30`. Numbers, truth values and lists are written
as in TOML.

SIGHUP and `ghostctl relay reload` read it again: policy, keys, certificates and limits change for
what comes after, without dropping tunnels. Keys that say "read at start only" keep their value. If
anything is wrong, nothing changes.

Units are in the names: `_s` seconds, `_bytes` bytes, `_count` a number of things.
"""

_REQUIRED = object()
_ROLE = re.compile(r":(?:class|meth|func|mod):(?=`)")  # markup for readers of the code


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Key:
    name: str
    annotation: object
    default: object
    text: str


def config_reference() -> str:
    """Return the reference as Markdown; a test keeps the committed file equal to it."""
    return _HEAD + "".join(_sections(RelayConfig, ""))


def _sections(cls: type, path: str) -> Iterator[str]:
    keys = list(_keys(cls))
    plain = [key for key in keys if _section_class(key.annotation) is None]
    if path or plain:
        yield f"\n## `{_header(path)}`\n\n" if path else ""
        if path:
            yield f"{inspect.getdoc(cls) or ''}\n".split("\n\n", maxsplit=1)[0].strip() + "\n"
        if plain:
            yield "\n| key | type | default | meaning |\n|---|---|---|---|\n"
        for key in plain:
            yield (
                f"| `{key.name}` | {_type_name(key.annotation)} | {_default(key.default)} "
                f"| {_one_line(key.text)} |\n"
            )
    for key in keys:
        inner = _section_class(key.annotation)
        if inner is not None:
            is_list = _is_tuple(key.annotation)
            yield from _sections(
                inner, f"{path}.{key.name}".lstrip(".") + ("[]" if is_list else "")
            )


def _header(path: str) -> str:
    if path.endswith("[]"):
        return f"[[{path[:-2].replace('[]', '')}]]"
    return f"[{path.replace('[]', '')}]"


def _keys(cls: type[object]) -> Iterator[_Key]:
    if issubclass(cls, BaseModel):
        for name, field in cls.model_fields.items():
            default = _REQUIRED if field.default is PydanticUndefined else field.default
            # The annotation without its validators is in the class's own hints.
            yield _Key(
                name=name,
                annotation=typing.get_type_hints(cls)[name],
                default=default,
                text=field.description or "",
            )
        return
    hints = typing.get_type_hints(cls)
    texts = _attribute_docstrings(cls)
    for data_field in dataclasses.fields(cast("Any", cls)):
        yield _Key(
            name=data_field.name,
            annotation=hints[data_field.name],
            default=_dataclass_default(data_field),
            text=texts.get(data_field.name, ""),
        )


def _dataclass_default(field: dataclasses.Field[object]) -> object:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return _REQUIRED if field.default is dataclasses.MISSING else field.default


def _attribute_docstrings(cls: type) -> dict[str, str]:
    """Return the string below each field of a class, which Python itself throws away."""
    body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    assert isinstance(body, ast.ClassDef)  # noqa: S101 (getsource of a class begins with it)
    texts: dict[str, str] = {}
    for field, below in zip(body.body, body.body[1:], strict=False):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(below, ast.Expr)
            and isinstance(below.value, ast.Constant)
            and isinstance(below.value.value, str)
        ):
            texts[field.target.id] = inspect.cleandoc(below.value.value)
    return texts


def _parts(annotation: object) -> tuple[object, ...]:
    if get_origin(annotation) in {types.UnionType, Union}:
        return tuple(part for part in get_args(annotation) if part is not types.NoneType)
    return (annotation,)


def _is_tuple(annotation: object) -> bool:
    return get_origin(annotation) is tuple


def _section_class(annotation: object) -> type | None:
    """Return the class whose fields are a table of their own, also below None and tuples."""
    for part in _parts(annotation):
        inner = get_args(part)[0] if _is_tuple(part) else part
        if (
            isinstance(inner, type)
            and inner not in _TYPE_NAMES
            and (dataclasses.is_dataclass(inner) or issubclass(inner, BaseModel))
        ):
            return inner
    return None


_TYPE_NAMES = {
    int: "integer",
    float: "number",
    bool: "true or false",
    str: "string",
    Path: "path",
    Endpoint: "address",
    UnixSocket: "`unix:PATH`",
}


def _type_name(annotation: object) -> str:
    names: list[str] = []
    for part in _parts(annotation):
        if _is_tuple(part):
            names.append(f"list of {_type_name(get_args(part)[0])}")
        elif get_origin(part) is dict:
            names.append(f"table of {_type_name(get_args(part)[1])}")
        elif isinstance(part, type) and issubclass(part, Enum):
            names.append(" / ".join(f"`{member.value}`" for member in part))
        else:
            known = _TYPE_NAMES.get(part) if isinstance(part, type) else None
            names.append(known or "IP address")
    return " or ".join(dict.fromkeys(names))


def _default(value: object) -> str:
    if value is _REQUIRED:
        return "**required**"
    if value is None:
        return "none"
    return f"`{_toml(value)}`"


def _toml(value: object) -> str:
    match value:
        case bool():
            return str(value).lower()
        case Enum():
            return f'"{value.value}"'
        case int() | float():
            return f"{value}"
        case tuple():
            elements = cast("tuple[object, ...]", value)
            return f"[{', '.join(map(_toml, elements))}]"
        case dict():
            return "{}"
        case _:
            return f'"{value}"'


def _one_line(text: str) -> str:
    plain = _ROLE.sub("", " ".join(text.split()))
    return plain.replace("``", "`").replace("|", "\\|")

"""Owns the built-in fuzzing loop: seeded mutation of a small committed corpus."""

import random
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

from masque_relay.wire.errors import WireError
from tests.fuzz.targets import Target

CORPUS = Path(__file__).parent / "corpus"
MAX_INPUT_BYTES = 2048
INTERESTING = (
    b"\x00", b"\x3f", b"\x40", b"\x7f", b"\x80", b"\xc0", b"\xff", b"\xff" * 8, b"%", b"%00",
    b"%2F", b"%zz", b"/", b"?", b"&", b"=", b"{", b"}", b"{?", b"{&", b",", b":", b"::", b"[", b"]",
    b".", b";", b'"', b"\\", b"@", b"-", b"_", b"0", b"65536", b"0x", b"\xc3\xbc", b"\n", b" ",
    b"*",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """An input that was neither accepted nor refused with WireError."""

    target: str
    data: bytes
    trace: str


def read_corpus(name: str) -> list[bytes]:
    """Return a target's committed inputs in a fixed order; at least the empty one."""
    return [path.read_bytes() for path in sorted((CORPUS / name).glob("*"))] or [b""]


def run_once(name: str, target: Target, data: bytes) -> Finding | None:
    """Feed one input and judge the outcome."""
    try:
        target(data)
    except WireError:
        return None
    except Exception:  # noqa: BLE001  # everything but WireError is what we look for
        return Finding(target=name, data=data, trace=traceback.format_exc())
    return None


def mutate(data: bytes, generator: random.Random, corpus: list[bytes]) -> bytes:
    """Return a changed copy: one to eight small edits."""
    changed = bytearray(data)
    for _ in range(generator.randint(1, 8)):
        position = generator.randint(0, len(changed))
        match generator.randrange(7):
            case 0 if position < len(changed):
                changed[position] ^= 1 << generator.randrange(8)
            case 1 if position < len(changed):
                changed[position] = generator.randrange(256)
            case 2:
                changed[position:position] = generator.choice(INTERESTING)
            case 3:
                del changed[position : position + generator.randint(1, 8)]
            case 4:
                del changed[position:]
            case 5:
                changed += changed[position : position + generator.randint(1, 64)]
            case _:
                other = generator.choice(corpus)
                changed[position:] = other[generator.randint(0, len(other)) :]
    return bytes(changed[:MAX_INPUT_BYTES])


def run_target(
    name: str, target: Target, *, seconds: float, seed: int
) -> tuple[int, Finding | None]:
    """Fuzz until the time is over or there is a finding; return how many inputs were fed."""
    generator = random.Random(f"{seed}:{name}")
    corpus = read_corpus(name)
    for count, data in enumerate(corpus, start=1):
        if finding := run_once(name, target, data):
            return count, finding
    pool = list(corpus)
    count = len(corpus)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        data = mutate(generator.choice(pool), generator, corpus)
        count += 1
        if finding := run_once(name, target, data):
            return count, finding
        if generator.randrange(50) == 0:  # let some changes pile up
            pool.append(data)
            if len(pool) > 500:
                pool = list(corpus)
    return count, None

"""A TURN rig per test."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.turn_rig import TurnRig

MakeRig = Callable[..., TurnRig]


@pytest.fixture
def make_rig(tmp_path: Path) -> Iterator[MakeRig]:
    """Return what makes a rig; all are closed afterwards."""
    made: list[TurnRig] = []

    def make(**settings: object) -> TurnRig:
        rig = TurnRig(tmp_path, **settings)  # type: ignore[arg-type]  # fields by name
        made.append(rig)
        return rig

    yield make
    for rig in made:
        rig.close()


@pytest.fixture
def rig(make_rig: MakeRig) -> TurnRig:
    return make_rig()

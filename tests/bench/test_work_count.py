"""A regression of more than ten per cent on the packet path fails here, however busy the machine.

The counts are of bytecode instructions per relayed datagram, the same in every run. Whoever makes
the path cheaper, or dearer for a reason, writes the new counts here and the reason into the commit;
``python -m tests.bench.work_count`` prints them.
"""

import sys

import pytest

from masque_relay.quic.accelerator import is_compiled
from tests.bench.work_count import LOADS, Load, count

INSTRUCTIONS = {
    ("thin up", False): 1800,
    ("thin down", False): 2971,
    ("bulk up", False): 526,
    ("bulk down", False): 431,
    ("thin up", True): 1519,
    ("thin down", True): 2736,
    ("bulk up", True): 187,
    ("bulk down", True): 343,
}
"""CPython 3.11; by load and whether the accelerator is in use."""
TOLERANCE = 0.10


@pytest.mark.skipif(
    sys.version_info[:2] != (3, 11), reason="another Python has other bytecode instructions"
)
@pytest.mark.timeout(180)
@pytest.mark.parametrize("accelerator", [False, True], ids=["python", "accelerator"])
@pytest.mark.parametrize("load", LOADS, ids=[load.name for load in LOADS])
async def test_a_datagram_costs_what_it_cost(load: Load, accelerator: bool) -> None:
    if accelerator and not is_compiled():
        pytest.skip("the accelerator is not compiled here: make accelerator")
    expected = INSTRUCTIONS[load.name, accelerator]
    found = await count(load, accelerator=accelerator)
    assert found <= expected * (1 + TOLERANCE), "the packet path has become dearer"
    assert found >= expected * (1 - TOLERANCE), "well done: write the new count down"

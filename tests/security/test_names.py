"""Names in good credentials that would do harm where they are shown or kept."""

from dataclasses import asdict
from pathlib import Path

import jwt
import orjson
import pytest

from masque_relay.contract.request import BearerToken
from masque_relay.contract.verdict import DenyReason
from tests.support.gates import AUDIENCE, ISSUER, GateBench

SURROGATE = "mallory\ud800"
"""What JSON's ``\\ud800`` becomes in Python; no UTF-8 and no JSON of ours can hold it."""
BIDI = "alice\u202eecila"
"""Shown as ``alicealice``, or whatever its owner likes."""


def token_for(bench: GateBench, claims: dict[str, object]) -> BearerToken:
    standard = {"iss": ISSUER, "aud": AUDIENCE, "exp": bench.clock.wall_s() + 60}
    token = jwt.encode(
        standard | claims, bench.key.private, algorithm="EdDSA", headers={"kid": bench.key.kid}
    )
    return BearerToken(token=token)


@pytest.mark.parametrize("name", [SURROGATE, BIDI], ids=["surrogate", "bidi"])
@pytest.mark.parametrize("claim", ["sub", "jti", "groups"])
async def test_a_name_that_no_list_can_show_is_refused(
    tmp_path: Path, claim: str, name: str
) -> None:
    bench = GateBench(tmp_path)
    claims: dict[str, object] = {"sub": "alice"}
    claims[claim] = [name] if claim == "groups" else name
    denial = await bench.denied(bench.request(credentials=(token_for(bench, claims),)))
    assert denial.reason is DenyReason.CREDENTIAL_INVALID


async def test_the_list_of_tunnels_can_be_shown_whoever_holds_one(tmp_path: Path) -> None:
    bench = GateBench(tmp_path)
    for name in (SURROGATE, BIDI, "Jürgen 🚇", "a b"):
        await bench.gate.admit(bench.request(credentials=(token_for(bench, {"sub": name}),)))
    shown = orjson.loads(orjson.dumps([asdict(tunnel) for tunnel in bench.gate.snapshots()]))
    assert [tunnel["subject"] for tunnel in shown] == ["Jürgen 🚇", "a b"]

"""The revocation list: in force at once, kept over restarts, bounded, expiring with the token."""

import json
import os
from pathlib import Path

import pytest

from masque_relay.contract.errors import ConfigError
from masque_relay.control.revocation import RevocationError, RevocationList
from tests.support.gates import NOW_S


def make(file: Path | None = None, max_entries: int = 100) -> RevocationList:
    return RevocationList(file=file, max_entries=max_entries)


def revoke(
    revocations: RevocationList,
    subject: str | None = None,
    token_id: str | None = None,
    *,
    until_s: float = NOW_S + 100,
    now_s: float = NOW_S,
) -> None:
    revocations.revoke(subject=subject, token_id=token_id, until_s=until_s, now_s=now_s)


def test_subjects_and_token_ids_are_revoked_each_on_its_own() -> None:
    revocations = make()
    revoke(revocations, subject="alice")
    revoke(revocations, token_id="t-1")
    assert revocations.holds(subject="alice", token_id=None)
    assert revocations.holds(subject="bob", token_id="t-1")
    assert not revocations.holds(subject="t-1", token_id="alice")


def test_the_list_survives_a_restart(tmp_path: Path) -> None:
    file = tmp_path / "revocations.json"
    revoke(make(file), subject="alice", token_id="t-1")
    again = make(file)
    assert again.holds(subject="alice", token_id=None)
    assert again.holds(subject="x", token_id="t-1")
    assert os.listdir(tmp_path) == ["revocations.json"]  # noqa: PTH208 (names only)


def test_token_ids_are_forgotten_when_the_token_has_expired_and_subjects_are_not() -> None:
    revocations = make()
    revoke(revocations, subject="alice", token_id="t-1")
    revoke(revocations, token_id="t-2", now_s=NOW_S + 100, until_s=NOW_S + 200)
    assert not revocations.holds(subject="x", token_id="t-1")
    assert revocations.holds(subject="alice", token_id="t-2")


def test_a_full_list_refuses_new_entries_and_keeps_the_old_ones() -> None:
    revocations = make(max_entries=2)
    revoke(revocations, subject="a")
    revoke(revocations, subject="b")
    revoke(revocations, subject="b")
    with pytest.raises(RevocationError, match="full"):
        revoke(revocations, subject="c")
    assert len(revocations) == 2
    assert not revocations.holds(subject="c", token_id=None)


def test_a_list_that_can_not_be_saved_is_in_force_and_says_so(tmp_path: Path) -> None:
    revocations = make(tmp_path / "gone" / "revocations.json")
    with pytest.raises(RevocationError, match="in force"):
        revoke(revocations, subject="alice")
    assert revocations.holds(subject="alice", token_id=None)


def test_a_subject_can_be_reinstated(tmp_path: Path) -> None:
    file = tmp_path / "revocations.json"
    revocations = make(file)
    revoke(revocations, subject="alice")
    assert revocations.reinstate("alice")
    assert not revocations.reinstate("alice")
    assert not make(file).holds(subject="alice", token_id=None)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"subjects": 3, "token_ids": {}}',
        '{"subjects": [], "token_ids": {"a": "x"}}',
    ],
)
def test_a_file_that_is_not_ours_is_refused_rather_than_ignored(tmp_path: Path, text: str) -> None:
    file = tmp_path / "revocations.json"
    file.write_text(text)
    with pytest.raises(ConfigError):
        make(file)


def test_the_file_can_be_read_by_people(tmp_path: Path) -> None:
    file = tmp_path / "revocations.json"
    revoke(make(file), subject="alice", token_id="t")
    document = json.loads(file.read_text())
    assert document == {"subjects": ["alice"], "token_ids": {"t": NOW_S + 100}}

"""The switchboard: newest member wins, watchers hear of coming and going."""

from typing import Any

from masque_relay.dataplane.switchboard import RelaySwitchboard


class Someone:
    """A member that records what it hears."""

    def __init__(self, peer_id: bytes) -> None:
        self.peer_id = peer_id
        self.lease: Any = None
        self.heard: list[tuple[str, bytes]] = []
        self.signed_candidates: tuple[bytes, bytes] | None = None

    def call(self, caller: Any, call: Any) -> int:
        return 9

    def replaced(self) -> None:
        self.heard.append(("replaced", self.peer_id))

    def presence_changed(self, member: Any, *, is_here: bool) -> None:
        self.heard.append(("here" if is_here else "away", member.peer_id))

    def candidates_changed(self, member: Any) -> None:
        self.heard.append(("candidates", member.peer_id))


def test_newest_member_of_an_id_wins_and_the_older_ones_leaving_changes_nothing() -> None:
    board = RelaySwitchboard()
    older, newer = Someone(b"a"), Someone(b"a")
    board.join(older)
    board.join(newer)
    board.leave(older)

    assert board.find(b"a") is newer
    assert older.heard == [("replaced", b"a")]
    board.leave(newer)
    board.leave(newer)
    assert board.find(b"a") is None
    assert len(board) == 0


def test_watcher_hears_at_once_and_later_and_not_of_a_replacement() -> None:
    board = RelaySwitchboard()
    watcher, first, second = Someone(b"w"), Someone(b"a"), Someone(b"a")
    board.join(watcher)
    board.join(first)
    board.watch(watcher, [b"a", b"b", b"a"])
    board.join(second)
    board.leave(first)
    board.leave(second)

    assert watcher.heard == [("here", b"a"), ("away", b"a")]


def test_candidates_reach_those_who_watch_then_and_later() -> None:
    board = RelaySwitchboard()
    early, late, member = Someone(b"e"), Someone(b"l"), Someone(b"a")
    board.watch(early, [b"a"])
    board.join(member)
    member.signed_candidates = (b"record", b"signature")
    board.published(member)
    board.watch(late, [b"a"])

    assert early.heard == [("here", b"a"), ("candidates", b"a")]
    assert late.heard == [("here", b"a"), ("candidates", b"a")]


def test_new_list_replaces_the_old_one_and_leaving_forgets_it() -> None:
    board = RelaySwitchboard()
    watcher, one, other = Someone(b"w"), Someone(b"a"), Someone(b"b")
    board.join(watcher)
    board.watch(watcher, [b"a"])
    board.watch(watcher, [b"b"])
    board.join(one)
    board.join(other)
    board.leave(watcher)
    board.leave(other)

    assert watcher.heard == [("here", b"b")]

"""Owns the switchboard of one relay: which member has which peer id, and who watches whom."""

from collections.abc import Sequence

from masque_relay.contract.ghostwire import Member


class RelaySwitchboard:
    """Implements the port ``Switchboard``: two dictionaries, nothing waits here."""

    def __init__(self) -> None:
        self._members: dict[bytes, Member] = {}
        self._watchers: dict[bytes, set[Member]] = {}
        self._watched: dict[Member, tuple[bytes, ...]] = {}

    def __len__(self) -> int:
        return len(self._members)

    def join(self, member: Member) -> None:
        """Give the id to this member; the older one hears ``replaced`` when that has happened."""
        older = self._members.get(member.peer_id)
        self._members[member.peer_id] = member
        if older is None:
            self._tell_presence(member, is_here=True)
        elif older is not member:
            older.replaced()

    def leave(self, member: Member) -> None:
        """Take the id back and forget what the member watched."""
        self.watch(member, ())
        if self._members.get(member.peer_id) is member:
            del self._members[member.peer_id]
            self._tell_presence(member, is_here=False)

    def find(self, peer_id: bytes) -> Member | None:
        """Return who has this id now."""
        return self._members.get(peer_id)

    def watch(self, watcher: Member, peer_ids: Sequence[bytes]) -> None:
        """Replace the list; the watcher hears of those that are here at once."""
        for peer_id in self._watched.pop(watcher, ()):
            watchers = self._watchers[peer_id]
            watchers.discard(watcher)
            if not watchers:
                del self._watchers[peer_id]
        if not peer_ids:
            return
        self._watched[watcher] = tuple(dict.fromkeys(peer_ids))
        for peer_id in self._watched[watcher]:
            self._watchers.setdefault(peer_id, set()).add(watcher)
            member = self._members.get(peer_id)
            if member is not None:
                watcher.presence_changed(member, is_here=True)
                if member.signed_candidates is not None:
                    watcher.candidates_changed(member)

    def published(self, member: Member) -> None:
        """Tell everybody who watches this member."""
        for watcher in tuple(self._watchers.get(member.peer_id, ())):
            watcher.candidates_changed(member)

    def _tell_presence(self, member: Member, *, is_here: bool) -> None:
        for watcher in tuple(self._watchers.get(member.peer_id, ())):
            watcher.presence_changed(member, is_here=is_here)

"""Owns what a session tells its peer of other peers: who is here, and where they can be reached."""

from collections.abc import Callable

from masque_relay.contract.ghostwire import Member, Switchboard
from masque_relay.tunnels.ghostwire_handshake import VerifySignature
from masque_relay.wire.errors import WireError
from masque_relay.wire.ghostwire import Candidates, Frame, PeerCandidates, Presence, Watch
from masque_relay.wire.ghostwire_proof import CandidateRecord, signed_record

WATCHES_PER_TICK = 40
"""Whole lists that a peer may send per second, or as many ids on more of them: policy is asked
about each peer that is here. A client that says its list anew with each of 256 links, all opened
within a second, names 32,896; without a bound one peer could keep the relay busy."""
RECORDS_PER_TICK = 16
"""Of candidates, per second; each costs a check of its signature and a frame to every watcher.
What comes beyond is ignored: addresses do not change so often."""

_SECTION = "ghostwire: Presence"


class PresenceDesk:
    """The presence side of one session.

    A peer that the session's own may not reach is never mentioned: it looks like one that is away.

    Attributes:
        signed_candidates: the newest record of the session's own peer, and its signature.
    """

    __slots__ = (
        "_max_watched",
        "_may_be_reached_by",
        "_may_reach",
        "_record_count",
        "_send",
        "_sequence",
        "_verify",
        "_watched_count",
        "signed_candidates",
    )

    def __init__(
        self,
        *,
        may_reach: Callable[[Member], bool],
        may_be_reached_by: Callable[[Member], bool],
        send: Callable[[Frame], None],
        verify: VerifySignature,
        max_watched: int,
    ) -> None:
        self._may_reach = may_reach
        self._may_be_reached_by = may_be_reached_by
        self._send = send
        self._verify = verify
        self._max_watched = max_watched
        self._sequence = -1
        self._watched_count = self._record_count = 0
        """Within this tick."""
        self.signed_candidates: tuple[bytes, bytes] | None = None

    def tick(self) -> None:
        """Begin to count anew; to be called about once per second."""
        self._watched_count = self._record_count = 0

    def watch(self, frame: Watch, watcher: Member, switchboard: Switchboard) -> None:
        """Take the list of those whom the peer wants to hear of.

        Raises:
            WireError: the list is longer than the relay allows, or lists come too fast.
        """
        if len(frame.peer_ids) > self._max_watched:
            raise WireError(f"WATCH of {len(frame.peer_ids)} peers", section=_SECTION)
        self._watched_count += len(frame.peer_ids)
        if self._watched_count > WATCHES_PER_TICK * self._max_watched:
            raise WireError("WATCH again and again", section=_SECTION)
        switchboard.watch(watcher, frame.peer_ids)

    def publish(self, frame: Candidates, peer_id: bytes) -> bool:
        """Take the peer's own record; True when it is newer than the last.

        Raises:
            WireError: the record is another's, or its signature is.
        """
        self._record_count += 1
        if self._record_count > RECORDS_PER_TICK:
            return False
        record = CandidateRecord.decode(frame.record)
        message = signed_record(frame.record)
        if record.peer_id != peer_id or not self._verify(peer_id, frame.signature, message):
            raise WireError("a forged candidate record", section="ghostwire: Direct paths")
        if record.sequence <= self._sequence:
            return False
        self._sequence = record.sequence
        self.signed_candidates = (frame.record, frame.signature)
        return True

    def tell_presence(self, member: Member, *, is_here: bool) -> None:
        """Tell that a member came or went."""
        if self._may_reach(member):
            self._send(Presence(peer_id=member.peer_id, is_here=is_here))

    def tell_candidates(self, member: Member) -> None:
        """Pass a member's record on; to one that it may call as well: both have to knock."""
        signed = member.signed_candidates
        if signed is not None and (self._may_reach(member) or self._may_be_reached_by(member)):
            self._send(PeerCandidates(record=signed[0], signature=signed[1]))

"""Owns what all DERP sessions of one relay share: ports and limits."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fallbacks.derp.box import ServerBox
from fallbacks.derp.elsewhere import Elsewhere
from masque_relay.contract.counters import DerpCounters
from masque_relay.contract.derp_limits import DerpLimits
from masque_relay.contract.ghostwire import Member, Switchboard
from masque_relay.contract.lease import Lease

if TYPE_CHECKING:
    from fallbacks.derp.roster import Roster
    from fallbacks.derp.session import DerpSession


@dataclass(frozen=True, slots=True, kw_only=True)
class DerpPorts:
    """What a session is given."""

    box: ServerBox
    switchboard: Switchboard
    roster: "Roster"
    may_reach: Callable[[Lease, Member], bool]
    """Whether policy lets a lease reach a member."""
    elsewhere: Elsewhere
    """Clients of other servers of the mesh; empty where none is dialled."""
    may_reach_elsewhere: Callable[[Lease, bytes], bool]
    """Whether policy lets a lease reach a key that is at another server."""
    generation: Callable[[], int]
    """Changes when what ``may_reach`` answered may not hold any more."""
    authenticate: Callable[["DerpSession", bytes], None]
    """Show a proved key to the gate; ``admitted`` or ``refused`` follows."""
    session_over: Callable[["DerpSession"], None]
    """The session has ended; called once."""
    is_mesh_key: Callable[[str], bool]
    """Whether this is the key of the operator's own servers, in constant time."""
    random_bytes: Callable[[int], bytes]
    monotonic_s: Callable[[], float]
    jitter: Callable[[], float]
    """0 to 1, random."""
    counters: DerpCounters
    limits: DerpLimits

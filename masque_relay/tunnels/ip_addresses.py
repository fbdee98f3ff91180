"""Owns the addresses of one CONNECT-IP tunnel (RFC 9484 sections 4.7.1 and 4.7.2), sans I/O."""

from collections.abc import Mapping, Sequence
from ipaddress import IPv4Address, IPv6Address

from masque_relay.contract.address import IPAddress
from masque_relay.contract.ip import AddressPool
from masque_relay.wire.connect_ip import AddressEntry, refused_address
from masque_relay.wire.errors import WireError

MAX_ADDRESSES = 4
"""Per tunnel, both families together. One each is what a host needs; more is a choice of its own
(one address per application), and a pool is shared."""

MAX_ADDRESS_REQUESTS = 256
"""Request IDs remembered per tunnel, since none may come twice; each answer repeats every address,
so this also bounds what a client that reads nothing can make us queue."""

_SECTION = "RFC 9484 section 4.7.2"


class AddressMemory:
    """Which addresses an identity had last, so that it gets them again while they are free.

    Deviation from RFC 9484 section 11, which says that a proxy should avoid persistent assignment:
    the pools are private addresses behind this relay, and connections that outlive a tunnel are
    worth more to their owner. ``max_identities`` of 0 turns it off.
    """

    def __init__(self, max_identities: int) -> None:
        self._max_identities = max_identities
        self._last: dict[str, dict[int, IPAddress]] = {}

    def recall(self, identity: str) -> Mapping[int, IPAddress]:
        """Return the last address of each version."""
        return self._last.get(identity, {})

    def remember(self, identity: str, addresses: Sequence[IPAddress]) -> None:
        """Keep what a tunnel had; the identity that was unseen longest is forgotten."""
        if not self._max_identities or not addresses:
            return
        self._last.pop(identity, None)
        while len(self._last) >= self._max_identities:
            del self._last[next(iter(self._last))]
        # The first of each version: a second one is an extra that others may need.
        self._last[identity] = {address.version: address for address in reversed(addresses)}


class AddressBook:
    """What one tunnel has been given, and which request each address answers.

    Attributes:
        ipv4: the addresses as ints, for the check of each packet's source.
        ipv6: the same.
        refused_count: requests answered with nothing.
    """

    __slots__ = ("_entries", "_pool", "_request_ids", "_versions", "ipv4", "ipv6", "refused_count")

    def __init__(self, pool: AddressPool, versions: Sequence[int]) -> None:
        """Begin empty.

        Args:
            pool: where addresses come from and go back to.
            versions: the IP versions that the tunnel is for.
        """
        self._pool = pool
        self._versions = frozenset(versions)
        self._entries: list[AddressEntry] = []
        self._request_ids: set[int] = set()
        self.ipv4: set[int] = set()
        self.ipv6: set[int] = set()
        self.refused_count = 0

    @property
    def addresses(self) -> tuple[IPAddress, ...]:
        """Every address, in the order in which they were given."""
        return tuple(entry.address for entry in self._entries)

    @property
    def entries(self) -> tuple[AddressEntry, ...]:
        """What ADDRESS_ASSIGN has to say."""
        return tuple(self._entries)

    def begin(self, wanted: Mapping[int, IPAddress]) -> None:
        """Take one address of each version, before anything was asked for.

        Many clients expect that and never ask. The first request of a version is answered with it.
        """
        for version in sorted(self._versions):
            address = self._pool.assign(version, wanted.get(version))
            if address is not None:
                self._add(0, address)

    def answer(self, requests: Sequence[AddressEntry]) -> tuple[AddressEntry, ...]:
        """Give what is asked for; return the whole ADDRESS_ASSIGN, refusals included.

        Each request has its answer there (section 4.7.2); refusals are in this one only.

        Raises:
            WireError: a request ID came before, or too many came.
        """
        refusals: list[AddressEntry] = []
        for request in requests:
            if request.request_id in self._request_ids:
                raise WireError(f"request ID {request.request_id} again", section=_SECTION)
            if len(self._request_ids) >= MAX_ADDRESS_REQUESTS:
                raise WireError(f"more than {MAX_ADDRESS_REQUESTS} requests", section=_SECTION)
            self._request_ids.add(request.request_id)
            if not self._give(request):
                refusals.append(refused_address(request))
        self.refused_count += len(refusals)
        return (*self._entries, *refusals)

    def adopt(self, version: int, source: int) -> bool:
        """Give the client the address that it uses without having asked, if it is free."""
        if version not in self._versions or len(self._entries) >= MAX_ADDRESSES:
            return False
        wanted = IPv4Address(source) if version == 4 else IPv6Address(source)
        address = self._pool.assign(version, wanted)
        if address is None:
            return False
        if address != wanted:
            self._pool.release(address)
            return False
        self._add(0, address)
        return True

    def release(self) -> None:
        """Give everything back; idempotent."""
        for address in self.addresses:
            self._pool.release(address)
        self._entries.clear()
        self.ipv4.clear()
        self.ipv6.clear()

    def _give(self, request: AddressEntry) -> bool:
        version = request.address.version
        if version not in self._versions:
            return False
        wanted = request.address if int(request.address) else None
        for index, entry in enumerate(self._entries):
            if entry.request_id == 0 and entry.address.version == version:
                self._bind(index, request.request_id, wanted)
                return True
        if len(self._entries) >= MAX_ADDRESSES:
            return False
        address = self._pool.assign(version, wanted)
        if address is None:
            return False
        self._add(request.request_id, address)
        return True

    def _bind(self, index: int, request_id: int, wanted: IPAddress | None) -> None:
        """Let an address that was given unasked answer a request; the wanted one if it is free."""
        address = self._entries[index].address
        if wanted is not None and wanted != address:
            other = self._pool.assign(address.version, wanted)
            if other == wanted:
                self._pool.release(address)
                self._ints_of(address).discard(int(address))
                address = wanted
                self._ints_of(address).add(int(address))
            elif other is not None:
                self._pool.release(other)
        self._entries[index] = _whole(request_id, address)

    def _add(self, request_id: int, address: IPAddress) -> None:
        self._entries.append(_whole(request_id, address))
        self._ints_of(address).add(int(address))

    def _ints_of(self, address: IPAddress) -> set[int]:
        return self.ipv4 if address.version == 4 else self.ipv6


def _whole(request_id: int, address: IPAddress) -> AddressEntry:
    return AddressEntry(request_id=request_id, address=address, prefix_length=address.max_prefixlen)

"""Owns the sockets that all workers share: the supervisor's pool of them, and how a worker asks.

A worker asks while it starts, before its event loop serves anybody, so it may block. The sockets
stay open in the supervisor: a worker that dies takes no queue of clients with it, and the order of
the sockets behind a UDP port, by which the kernel chooses, never changes.
"""

import contextlib
import errno
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any, cast

import orjson

from masque_relay.contract.address import Endpoint
from masque_relay.contract.counters import FlowCounters
from masque_relay.contract.flow import FlowError
from masque_relay.contract.ports import DatagramSocket
from masque_relay.dataplane.batch_io import BatchUdpSocket
from masque_relay.dataplane.errors import flow_error_from_os
from masque_relay.dataplane.limits import SocketLimits
from masque_relay.dataplane.reuseport import Selection, open_group, steer
from masque_relay.http.tcp_front import open_listener
from masque_relay.quic.slots import SlotRoutes
from masque_relay.server.surroundings import QUIC_LISTENER
from masque_relay.server.twin_port import with_twin_port

ASK_TIMEOUT_S = 30.0
"""A supervisor that collects metrics of many workers may be busy for a while, never for so long."""
MAX_MESSAGE_BYTES = 65_536

Key = tuple[str, str, str]
"""Kind, name and address as configured."""


@dataclass(slots=True)
class _Shared:
    """The sockets behind one address: one per slot for UDP, one for all for TCP."""

    sockets: list[socket.socket] = field(default_factory=list[socket.socket])
    is_used: bool = True


class SocketPool:
    """All sockets of the relay that more than one process has."""

    def __init__(self, routes: SlotRoutes) -> None:
        self._routes = routes
        self._shared: dict[Key, _Shared] = {}

    def route(self, routes: SlotRoutes) -> None:
        """Send packets by these routes from now on."""
        self._routes = routes
        for (kind, name, _), shared in self._shared.items():
            if kind == "udp":
                steer(shared.sockets[0], _selection(routes, name))

    def answer(self, asker: socket.socket, slot: int) -> bool:
        """Answer one question of a worker on its socket; False when the worker closed it."""
        request = asker.recv(MAX_MESSAGE_BYTES)
        if not request:
            return False
        wanted = cast("Mapping[str, object]", orjson.loads(request))
        try:
            given = self._give(wanted, slot)
        except OSError as error:
            reply = {"errno": error.errno or errno.EIO, "detail": error.strerror or str(error)}
            asker.send(orjson.dumps(reply))
        else:
            socket.send_fds(asker, [b"{}"], [given.fileno()])
        return True

    def close(self) -> None:
        """Close every socket."""
        for shared in self._shared.values():
            for member in shared.sockets:
                member.close()
        self._shared.clear()

    def export(self) -> list[object]:
        """Return keys and descriptors, JSON-ready, for who takes over."""
        return [
            [list(key), [member.fileno() for member in shared.sockets]]
            for key, shared in self._shared.items()
        ]

    def adopt(self, exported: list[object]) -> None:
        """Take over what :meth:`export` of another process gave."""
        for item in exported:
            key, descriptors = cast("tuple[list[str], list[int]]", item)
            sockets = [socket.socket(fileno=descriptor) for descriptor in descriptors]
            self._shared[key[0], key[1], key[2]] = _Shared(sockets=sockets, is_used=False)

    def close_unused(self) -> None:
        """Close what was adopted and nobody of the new generation asked for."""
        for key, shared in list(self._shared.items()):
            if not shared.is_used:
                for member in shared.sockets:
                    member.close()
                del self._shared[key]

    def _give(self, wanted: Mapping[str, object], slot: int) -> socket.socket:
        kind, name = cast("str", wanted["kind"]), cast("str", wanted["name"])
        endpoint = Endpoint(
            address=ip_address(cast("str", wanted["host"])), port=cast("int", wanted["port"])
        )
        key = (kind, name, str(endpoint))
        shared = self._shared.get(key)
        if shared is None:
            if kind == "tcp":
                shared = _Shared(sockets=[open_listener(endpoint)])
            else:
                shared = _Shared(sockets=self._open_udp(endpoint, name, wanted))
            self._shared[key] = shared
        shared.is_used = True
        return shared.sockets[0 if kind == "tcp" else slot]

    def _open_udp(
        self, endpoint: Endpoint, name: str, wanted: Mapping[str, object]
    ) -> list[socket.socket]:
        limits = SocketLimits(**cast("dict[str, Any]", wanted["limits"]))
        if name == QUIC_LISTENER:
            endpoint = with_twin_port(endpoint)
        try:
            members = open_group(endpoint, self._routes.slot_count, limits)
        except FlowError as error:
            raise _os_error(error) from error
        steer(members[0], _selection(self._routes, name))
        return members


class BrokeredListeners:
    """The listeners of a worker: asks its supervisor; a server.surroundings.Listeners."""

    def __init__(self, asker: socket.socket) -> None:
        """Take the worker's end; :meth:`close` it once everything listens."""
        self._asker = asker
        asker.settimeout(ASK_TIMEOUT_S)

    def datagram(
        self, name: str, endpoint: Endpoint, limits: SocketLimits, counters: FlowCounters
    ) -> DatagramSocket:
        """Return this worker's socket behind a UDP port."""
        settings = {
            "receive_buffer_bytes": limits.receive_buffer_bytes,
            "send_buffer_bytes": limits.send_buffer_bytes,
            "segment_sends": limits.segment_sends,
            "coalesce_receives": limits.coalesce_receives,
        }
        try:
            given = self._ask("udp", name, endpoint, limits=settings)
        except OSError as error:
            raise flow_error_from_os(error, f"bind {endpoint}") from error
        return BatchUdpSocket(given, limits=limits, counters=counters)

    def stream(self, name: str, endpoint: Endpoint) -> socket.socket:
        """Return the one listening socket behind a TCP port, which all workers accept from."""
        given = self._ask("tcp", name, endpoint)
        given.settimeout(0)
        return given

    def close(self) -> None:
        """Ask no more."""
        self._asker.close()

    def _ask(self, kind: str, name: str, endpoint: Endpoint, **more: object) -> socket.socket:
        question = {
            "kind": kind,
            "name": name,
            "host": str(endpoint.address),
            "port": endpoint.port,
            **more,
        }
        self._asker.send(orjson.dumps(question))
        reply, descriptors, _, _ = socket.recv_fds(self._asker, MAX_MESSAGE_BYTES, 1)
        if not reply:
            raise OSError(errno.EPIPE, "the supervisor is gone")
        answer = cast("Mapping[str, object]", orjson.loads(reply))
        if not descriptors:
            raise OSError(cast("int", answer["errno"]), cast("str", answer["detail"]))
        with contextlib.suppress(OSError):
            os.set_inheritable(descriptors[0], False)  # noqa: FBT003 (the system call's own form)
        return socket.socket(fileno=descriptors[0])


def _selection(routes: SlotRoutes, name: str) -> Selection:
    """Packets of QUIC go by connection ID; those of other UDP ports by source port."""
    return Selection(
        is_quic=name == QUIC_LISTENER,
        modulus=routes.modulus,
        offset=routes.offset,
        other_modulus=routes.worker_count,
        other_offset=routes.serving_half * routes.worker_count,
    )


def _os_error(error: FlowError) -> OSError:
    cause = error.__cause__
    return cause if isinstance(cause, OSError) else OSError(errno.EIO, error.detail)

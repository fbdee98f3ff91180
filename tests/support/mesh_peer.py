"""Owns a peer of the mesh that takes every call and keeps what it hears."""

import asyncio
import secrets
import time
from typing import Any

from masque_relay.client.mesh.identity import PeerIdentity, verify_signature
from masque_relay.contract.ghostwire import Exporter
from masque_relay.tunnels.ghostwire_peer import PeerPorts, PeerSession
from masque_relay.tunnels.ghostwire_peer_channel import PeerChannel
from tests.support.ghostwire_world import Recorder


class MeshPeer:
    """A peer that takes every call and keeps what it hears."""

    def __init__(self, identity: PeerIdentity | None = None) -> None:
        self.identity = identity or PeerIdentity.generate()
        self.session: PeerSession | None = None
        self.opened = asyncio.Event()
        self.calls: list[Recorder] = []
        self.frames: list[Any] = []
        self.closed: tuple[int, str, int] | None = None

    def make(self, exporter: Exporter | None, *, token: str = "", name: str = "") -> PeerSession:
        self.session = PeerSession(
            PeerPorts(
                peer_id=self.identity.peer_id,
                sign=self.identity.sign,
                verify=verify_signature,
                token=token,
                exporter=exporter,
                relay_name=name,
                window_bytes=65_536,
                random_bytes=secrets.token_bytes,
                monotonic_s=time.monotonic,
                wall_s=time.time,
                jitter=lambda: 0.5,
            ),
            self,
        )
        return self.session

    def session_opened(self, welcome: Any) -> None:
        self.opened.set()

    def called(self, channel: PeerChannel) -> None:
        recorder = Recorder()
        recorder.channel = channel
        self.calls.append(recorder)
        channel.accept(recorder)

    def mesh_frame_received(self, frame: Any) -> None:
        self.frames.append(frame)

    def candidates_received(self, record: Any) -> None:
        self.frames.append(record)

    def session_closed(self, code: int, reason: str, retry_after_ms: int) -> None:
        self.closed = (code, reason, retry_after_ms)
        self.opened.set()

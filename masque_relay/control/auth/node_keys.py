"""Owns the node keys of DERP clients: a list in a file, and a verifier that is asked over HTTP.

The key itself was proved before anybody asks here: the client sealed a box with it for the relay.
"""

import asyncio
import hashlib
import ssl
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import cast

import httpx
import orjson

from masque_relay.contract.address import Endpoint
from masque_relay.contract.errors import ConfigError, Problem
from masque_relay.contract.request import NodeKey
from masque_relay.contract.verdict import Denial, DenyReason
from masque_relay.control.auth.principal import (
    MAX_GROUPS,
    CredentialKind,
    Principal,
    is_presentable,
)
from masque_relay.control.policy.addresses import unwrap
from masque_relay.control.settings import NodeKeySettings
from masque_relay.control.toml_table import TomlSource
from masque_relay.wire.errors import WireError
from masque_relay.wire.node_key import format_node_key, parse_node_key

MAX_ANSWER_BYTES = 65_536
RETRY_AFTER_S = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One line of the list."""

    name: str
    key: bytes
    groups: tuple[str, ...] = ()


class NodeKeyAuthenticator:
    """Looks a key up in the list; asks the verifier about others, where there is one."""

    def __init__(
        self,
        settings: NodeKeySettings,
        nodes: tuple[Node, ...],
        *,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """Take the list; ``transport`` replaces the network in tests."""
        self._settings = settings
        self._nodes = {node.key: node for node in nodes}
        self._transport = transport
        self._pending = 0

    async def authenticate(
        self, credential: NodeKey, *, source: Endpoint, now_s: float
    ) -> Principal | Denial:
        """Return whose key it is, or why nobody's. Never raises for what a peer sent."""
        del now_s
        node = self._nodes.get(credential.key)
        if node is not None:
            return _principal_of(node)
        if self._settings.verifier_url is None:
            return Denial(reason=DenyReason.CREDENTIAL_INVALID, detail="the node key is not listed")
        return await self._verify(self._settings.verifier_url, credential.key, source)

    def recall(self, credential: NodeKey) -> Principal | None:
        """Return whose key it is, without a proof of it and without asking anybody.

        Where there is a verifier, keys that are not listed are those that it lets in: whoever
        admitted one has asked.
        """
        node = self._nodes.get(credential.key)
        if node is not None:
            return _principal_of(node)
        return None if self._settings.verifier_url is None else self._verified(credential.key)

    def still_trusts(self, principal: Principal) -> bool:
        """Return whether the key is still listed for the same subject, or the verifier the same."""
        if principal.key_id == self._verifier_id:
            return self._settings.verifier_url is not None
        return any(
            _listed_id(node) == principal.key_id and node.groups == principal.groups
            for node in self._nodes.values()
        )

    @property
    def _verifier_id(self) -> str:
        url = self._settings.verifier_url or ""
        return "verifier:" + hashlib.sha256(url.encode()).hexdigest()

    async def _verify(self, url: str, key: bytes, source: Endpoint) -> Principal | Denial:
        if self._pending >= self._settings.verifier_max_pending:
            return _come_again("too many questions to the node key verifier")
        self._pending += 1
        try:
            allows = await self._ask(url, key, source)
        finally:
            self._pending -= 1
        if allows is None and not self._settings.allow_when_verifier_fails:
            return _come_again("the node key verifier does not answer")
        if allows is False:
            detail = "the node key verifier refuses it"
            return Denial(reason=DenyReason.CREDENTIAL_INVALID, detail=detail)
        return self._verified(key)

    def _verified(self, key: bytes) -> Principal:
        return Principal(
            subject=format_node_key(key),
            groups=self._settings.verifier_groups,
            method=CredentialKind.NODE_KEY,
            key_id=self._verifier_id,
        )

    async def _ask(self, url: str, key: bytes, source: Endpoint) -> bool | None:
        """Return the verifier's word; None where it gives none that counts."""
        question = {"NodePublic": format_node_key(key), "Source": str(unwrap(source.address))}
        timeout_s = self._settings.verifier_timeout_s
        try:
            async with (
                asyncio.timeout(timeout_s),  # httpx's own counts anew with every chunk
                httpx.AsyncClient(
                    verify=_trust(), trust_env=False, timeout=timeout_s, transport=self._transport
                ) as client,
                client.stream("POST", url, json=question) as response,
            ):
                if response.status_code != 200:
                    return None
                return await _read_answer(response)
        except (TimeoutError, httpx.HTTPError, httpx.InvalidURL, OSError):
            return None


async def _read_answer(response: httpx.Response) -> bool | None:
    body = b""
    async for chunk in response.aiter_bytes():
        body += chunk
        if len(body) > MAX_ANSWER_BYTES:
            return None
    try:
        answer: object = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(answer, dict):
        return None
    return cast("dict[object, object]", answer).get("Allow") is True


def load_node_keys(settings: NodeKeySettings) -> NodeKeyAuthenticator:
    """Return an authenticator with the keys of the list as it is now.

    Raises:
        ConfigError: neither list nor verifier is named, or one of them is of no use.
    """
    url = settings.verifier_url
    if settings.file is None and url is None:
        problem = Problem(detail="names neither file nor verifier_url", key_path="gate.node_keys")
        raise ConfigError([problem])
    if url is not None and not url.startswith(("https://", "http://")):
        detail = "must begin with https:// (or http:// on a trusted network)"
        raise ConfigError([Problem(detail=detail, key_path="gate.node_keys.verifier_url")])
    nodes = () if settings.file is None else load_nodes(settings.file)
    return NodeKeyAuthenticator(settings, nodes)


def load_nodes(path: Path) -> tuple[Node, ...]:
    """Return the nodes of a list.

    Raises:
        ConfigError: the file is unusable; all problems at once.
    """
    source = TomlSource.open(path)
    nodes: dict[bytes, Node] = {}
    for name, table in source.root.named_tables("node"):
        text = table.text("key", required=True)
        groups = tuple(group for _, group in table.texts("groups"))
        if not is_presentable(name):
            table.problem("a node's name is short and has no control characters")
        if len(groups) > MAX_GROUPS:
            table.problem(f"more than {MAX_GROUPS} groups", "groups")
        table.finish()
        if text is None:
            continue
        try:
            key = parse_node_key(text)
        except WireError as error:
            table.problem(error.detail, "key", hint="tailscale status --json shows it")
            continue
        if key in nodes:
            table.problem(f"is the key of {nodes[key].name} too", "key")
        nodes[key] = Node(name=name, key=key, groups=groups)
    source.root.finish()
    source.raise_problems()
    return tuple(nodes.values())


@cache
def _trust() -> ssl.SSLContext:
    """The system's CAs; loading them takes too long to do it for each question."""
    return ssl.create_default_context()


def _principal_of(node: Node) -> Principal:
    return Principal(
        subject=node.name,
        groups=node.groups,
        method=CredentialKind.NODE_KEY,
        key_id=_listed_id(node),
    )


def _listed_id(node: Node) -> str:
    return "node:" + hashlib.sha256(node.name.encode() + b"\0" + node.key).hexdigest()


def _come_again(detail: str) -> Denial:
    return Denial(reason=DenyReason.OVERLOADED, detail=detail, retry_after_s=RETRY_AFTER_S)

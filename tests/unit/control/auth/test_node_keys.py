"""Node keys: the list, and a verifier that answers, refuses, hangs or breaks."""

import asyncio
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from masque_relay.contract.address import Endpoint
from masque_relay.contract.errors import ConfigError
from masque_relay.contract.request import NodeKey
from masque_relay.contract.verdict import Denial, DenyReason
from masque_relay.control.auth.node_keys import Node, NodeKeyAuthenticator, load_node_keys
from masque_relay.control.auth.principal import CredentialKind, Principal
from masque_relay.control.settings import NodeKeySettings
from masque_relay.wire.node_key import format_node_key

KEY, OTHER = b"\x01" * 32, b"\x02" * 32
SOURCE = Endpoint(address=ip_address("::ffff:192.0.2.9"), port=1_234)
URL = "http://verifier.example/verify"


async def ask(authenticator: NodeKeyAuthenticator, key: bytes = KEY) -> Principal | Denial:
    return await authenticator.authenticate(NodeKey(key=key), source=SOURCE, now_s=0.0)


def listed(path: Path, text: str) -> NodeKeyAuthenticator:
    file = path / "nodes.toml"
    file.write_text(text)
    return load_node_keys(NodeKeySettings(file=file))


def verifier(answer: Callable[[Any], Any], **changes: Any) -> NodeKeyAuthenticator:
    async def respond(request: Request) -> Response:
        said = answer(await request.json())
        said = await said if asyncio.iscoroutine(said) else said
        return said if isinstance(said, Response) else JSONResponse(said)

    app = Starlette(routes=[Route("/verify", respond, methods=["POST"])])
    settings = NodeKeySettings(**{"verifier_url": URL, "verifier_groups": ("tailnet",)} | changes)
    return NodeKeyAuthenticator(settings, (), transport=httpx.ASGITransport(app))


class TestList:
    async def test_a_listed_key_is_its_name(self, tmp_path: Path) -> None:
        text = f'[node.laptop]\nkey = "{format_node_key(KEY)}"\ngroups = ["home"]\n'
        authenticator = listed(tmp_path, text)
        who = await ask(authenticator)
        assert isinstance(who, Principal)
        assert (who.subject, who.groups, who.method) == (
            "laptop",
            ("home",),
            CredentialKind.NODE_KEY,
        )
        unknown = await ask(authenticator, OTHER)
        assert isinstance(unknown, Denial)
        assert unknown.reason is DenyReason.CREDENTIAL_INVALID

    async def test_a_reload_trusts_the_same_key_of_the_same_name_and_groups(
        self, tmp_path: Path
    ) -> None:
        line = f'[node.laptop]\nkey = "{format_node_key(KEY)}"\n'
        who = await ask(listed(tmp_path, line))
        assert isinstance(who, Principal)
        assert listed(tmp_path, line).still_trusts(who)
        assert not listed(tmp_path, "").still_trusts(who)
        assert not listed(tmp_path, line + 'groups = ["a"]\n').still_trusts(who)
        assert not listed(tmp_path, line.replace("laptop", "desk")).still_trusts(who)
        assert not listed(tmp_path, line.replace("01", "02")).still_trusts(who)

    @pytest.mark.parametrize(
        ("text", "problem"),
        [
            ("[node.a]\n", "key is missing"),
            ('[node.a]\nkey = "nodekey:xyz"\n', "64 hexadecimal digits"),
            (
                f'[node.a]\nkey = "{format_node_key(KEY)}"\n'
                f'[node.b]\nkey = "{format_node_key(KEY)}"\n',
                "the key of a too",
            ),
            ("[nodes.a]\n", "unknown key"),
        ],
    )
    def test_a_bad_list_is_refused_with_the_place(
        self, tmp_path: Path, text: str, problem: str
    ) -> None:
        with pytest.raises(ConfigError, match=problem):
            listed(tmp_path, text)

    def test_neither_list_nor_verifier_is_a_mistake(self) -> None:
        with pytest.raises(ConfigError, match="neither"):
            load_node_keys(NodeKeySettings())
        with pytest.raises(ConfigError, match="https"):
            load_node_keys(NodeKeySettings(verifier_url="ftp://example"))

    def test_whose_key_it_is_is_known_without_a_proof(self, tmp_path: Path) -> None:
        authenticator = listed(tmp_path, f'[node.a]\nkey = "{format_node_key(KEY)}"\n')
        who = authenticator.recall(NodeKey(key=KEY))
        assert who is not None
        assert who.subject == "a"
        assert authenticator.recall(NodeKey(key=OTHER)) is None


class TestVerifier:
    async def test_it_is_asked_as_tailscale_asks_and_its_word_counts(self) -> None:
        asked: list[Any] = []

        def answer(question: Any) -> Any:
            asked.append(question)
            return {"Allow": question["NodePublic"] == format_node_key(KEY)}

        authenticator = verifier(answer)
        who, stranger = await ask(authenticator), await ask(authenticator, OTHER)
        assert asked[0] == {"NodePublic": format_node_key(KEY), "Source": "192.0.2.9"}
        assert isinstance(who, Principal)
        assert (who.subject, who.groups) == (format_node_key(KEY), ("tailnet",))
        assert isinstance(stranger, Denial)
        assert stranger.reason is DenyReason.CREDENTIAL_INVALID
        assert authenticator.still_trusts(who)
        elsewhere = verifier(answer, verifier_url="http://other.example/verify")
        assert not elsewhere.still_trusts(who)

    def test_a_key_that_another_relay_let_in_is_the_verifiers_without_asking(self) -> None:
        def answer(question: Any) -> Any:
            raise AssertionError(question)

        who = verifier(answer).recall(NodeKey(key=OTHER))
        assert who is not None
        assert (who.subject, who.groups) == (format_node_key(OTHER), ("tailnet",))

    async def test_a_listed_key_is_not_asked_about(self) -> None:
        settings = NodeKeySettings(verifier_url="http://nowhere.invalid/")
        authenticator = NodeKeyAuthenticator(settings, (Node(name="laptop", key=KEY),))
        who = await ask(authenticator)
        assert isinstance(who, Principal)
        assert who.subject == "laptop"

    @pytest.mark.parametrize(
        "said",
        [
            Response(status_code=500),
            Response("no json"),
            Response("[]"),
            Response(b" " * 70_000),
            Response(status_code=302, headers={"location": "/verify"}),
        ],
    )
    async def test_what_is_no_answer_fails_closed_unless_configured(self, said: Response) -> None:
        refused = await ask(verifier(lambda _: said))
        assert isinstance(refused, Denial)
        assert refused.reason is DenyReason.OVERLOADED
        assert refused.retry_after_s
        allowed = await ask(verifier(lambda _: said, allow_when_verifier_fails=True))
        assert isinstance(allowed, Principal)

    @pytest.mark.parametrize("said", [{}, {"Allow": False}, {"Allow": "true"}, {"Allow": 1}])
    async def test_only_true_is_yes_whatever_is_configured(self, said: Any) -> None:
        refused = await ask(verifier(lambda _: said, allow_when_verifier_fails=True))
        assert isinstance(refused, Denial)
        assert refused.reason is DenyReason.CREDENTIAL_INVALID

    async def test_one_that_hangs_is_given_up_and_others_are_not_kept_waiting(self) -> None:
        async def hang() -> None:
            await asyncio.Event().wait()

        authenticator = verifier(lambda _: hang(), verifier_timeout_s=0.2, verifier_max_pending=2)
        answers = await asyncio.gather(*(ask(authenticator) for _ in range(3)))
        details = sorted(answer.detail for answer in answers if isinstance(answer, Denial))
        assert details == [
            "the node key verifier does not answer",
            "the node key verifier does not answer",
            "too many questions to the node key verifier",
        ]

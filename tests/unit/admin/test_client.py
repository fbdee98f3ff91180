"""admin/client.py: what ghostctl asks, and what it makes of the answers."""

import json

import httpx
import pytest

from masque_relay.admin.client import AdminClient, AdminRefusedError, AdminUnreachableError


class Recorder:
    """Answers every request with one response and keeps what was asked."""

    def __init__(self, status: int = 200, content: bytes = b"{}") -> None:
        self.asked: list[tuple[str, str, object]] = []
        self.authorization = ""
        self._status = status
        self._content = content

    def __call__(self, request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content) if request.content else None
        self.asked.append((request.method, request.url.raw_path.decode(), body))
        self.authorization = request.headers["authorization"]
        return httpx.Response(self._status, content=self._content)


def client(recorder: Recorder) -> AdminClient:
    return AdminClient("http://127.0.0.1:9443", "secret", transport=httpx.MockTransport(recorder))


def test_each_call_has_its_method_path_and_body() -> None:
    recorder = Recorder(content=b'{"tunnels": []}')
    with client(recorder) as admin:
        admin.status()
        assert admin.tunnels() == []
        admin.kick("lease-1")
        admin.revoke(subject="mallory", token_id=None)
        admin.revoke(subject=None, token_id="t1")
        admin.reload()
        admin.drain(deadline_s=1.5)
        admin.drain(deadline_s=None)
    assert recorder.asked == [
        ("GET", "/api/v1/status", None),
        ("GET", "/api/v1/tunnels", None),
        ("DELETE", "/api/v1/tunnels/lease-1", None),
        ("POST", "/api/v1/revoke", {"subject": "mallory"}),
        ("POST", "/api/v1/revoke", {"token_id": "t1"}),
        ("POST", "/api/v1/reload", None),
        ("POST", "/api/v1/drain", {"deadline_s": 1.5}),
        ("POST", "/api/v1/drain", {}),
    ]
    assert recorder.authorization == "Bearer secret"


def test_an_odd_lease_id_stays_one_path_segment() -> None:
    recorder = Recorder()
    with client(recorder) as admin:
        admin.kick("../reload?x#y")
    assert recorder.asked == [("DELETE", "/api/v1/tunnels/..%2Freload%3Fx%23y", None)]


def test_a_refusal_carries_status_hint_and_problems() -> None:
    error = {"code": "x", "message": "no", "hint": "do", "problems": ["a:1: b"]}
    with (
        client(Recorder(422, json.dumps({"error": error}).encode())) as admin,
        pytest.raises(AdminRefusedError, match="no") as caught,
    ):
        admin.reload()
    assert (caught.value.status, caught.value.hint) == (422, "do")
    assert caught.value.problems == ("a:1: b",)


@pytest.mark.parametrize("content", [b"", b"<html>", b"[]", b'"x"'])
def test_something_else_that_answers_is_not_taken_for_the_api(content: bytes) -> None:
    with client(Recorder(200, content)) as admin, pytest.raises(AdminUnreachableError):
        admin.status()


def test_a_refusal_without_our_form_still_has_a_message() -> None:
    with client(Recorder(502, b"{}")) as admin, pytest.raises(AdminRefusedError, match="502"):
        admin.status()


def test_a_connection_that_fails_is_told_apart() -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused", request=request)

    transport = httpx.MockTransport(refuse)
    with (
        AdminClient("http://127.0.0.1:1", "secret", transport=transport) as admin,
        pytest.raises(AdminUnreachableError, match="refused"),
    ):
        admin.status()


class Cut:
    """Cuts so many connections off before it answers."""

    def __init__(self, count: int) -> None:
        self.asked_count = 0
        self._left = count

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked_count += 1
        if self._left:
            self._left -= 1
            raise httpx.RemoteProtocolError("Server disconnected without sending a response.")
        return httpx.Response(200, content=b"{}")


@pytest.mark.parametrize(("cut_count", "answers"), [(1, True), (2, False)])
def test_question_that_was_cut_off_is_asked_once_more(cut_count: int, answers: bool) -> None:
    cut = Cut(cut_count)
    with AdminClient("http://127.0.0.1:9443", "s", transport=httpx.MockTransport(cut)) as admin:
        if answers:
            assert admin.status() == {}
        else:
            with pytest.raises(AdminUnreachableError, match="disconnected"):
                admin.status()
    assert cut.asked_count == 2


def test_change_that_was_cut_off_is_not_made_twice() -> None:
    cut = Cut(1)
    with AdminClient("http://127.0.0.1:9443", "s", transport=httpx.MockTransport(cut)) as admin:
        with pytest.raises(AdminUnreachableError, match="disconnected"):
            admin.reload()
        assert cut.asked_count == 1

"""The application for stock ASGI servers; tests/integration/http runs it under hypercorn."""

from starlette.types import Message

from masque_relay.http.asgi import app


async def test_it_serves_the_site_and_opens_no_tunnel() -> None:
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    for path in (b"/", b"/.well-known/masque/udp/192.0.2.7/53/"):
        scope = {
            "type": "http",
            "http_version": "1.1",
            "method": "GET",
            "path": path.decode(),
            "raw_path": path,
            "query_string": b"",
            "headers": [],
        }
        await app(scope, receive, send)

    assert [message["status"] for message in sent if "status" in message] == [200, 426]

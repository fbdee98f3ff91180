"""Whatever a client sends over TCP, a session answers or closes; it never raises."""

from hypothesis import given
from hypothesis import strategies as st

from masque_relay.contract.counters import TcpCounters
from masque_relay.http.h1_head import HEAD_END, has_lone_lf, parse_h1_head
from masque_relay.http.h1_session import H1Session
from masque_relay.http.h2_session import H2Session
from masque_relay.http.tcp_limits import TcpLimits
from masque_relay.http.tcp_wire import TcpServices
from masque_relay.wire.errors import WireError
from tests.support.http_fakes import FakeClock
from tests.support.http_rig import NO_APPLICATION
from tests.support.tcp_rig import FakeWire

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes.fromhex("000000040000000000")

WORDS = st.sampled_from(
    [
        b"GET", b"POST", b"CONNECT", b" ", b"/", b"*", b"https://a/", b"HTTP/1.1", b"HTTP/1.0",
        b"\r\n", b"\n", b"\r\n\r\n", b"Host: a", b"Content-Length: 3",
        b"Transfer-Encoding: chunked",
        b"Connection: Upgrade", b"Upgrade: connect-udp", b"Capsule-Protocol: ?1", b"abc", b"\0",
        b"3\r\nabc\r\n", b"0\r\n\r\n", b":", b"\xff",
    ]
)  # fmt: skip
HTTP1_BYTES = st.lists(WORDS, max_size=30).map(b"".join) | st.binary(max_size=200)
FRAMES = st.builds(
    lambda kind, flags, stream_id, payload: (
        len(payload).to_bytes(3, "big")
        + bytes([kind, flags])
        + stream_id.to_bytes(4, "big")
        + payload
    ),
    st.integers(0, 12),
    st.integers(0, 255),
    st.integers(0, 9),
    st.binary(max_size=40),
)
HTTP2_BYTES = st.lists(FRAMES, max_size=12).map(b"".join) | st.binary(max_size=200)


def services() -> TcpServices:
    return TcpServices(
        limits=TcpLimits(),
        counters=TcpCounters(),
        clock=FakeClock(),
        alt_svc=None,
        connection_id="c0ffee",
    )


@given(HTTP1_BYTES)
def test_head_is_read_or_refused(data: bytes) -> None:
    try:
        head = parse_h1_head(data.split(HEAD_END)[0] + HEAD_END)
    except WireError:
        return
    assert not has_lone_lf(head.h11_head)
    assert head.h11_head.count(HEAD_END) == 1


@given(HTTP1_BYTES, st.integers(1, 7))
def test_http1_session_survives_and_closes_once_at_most(data: bytes, step: int) -> None:
    wire = FakeWire()
    session = H1Session(NO_APPLICATION, wire, services())
    session.start()
    for start in range(0, len(data), step):
        session.data_received(data[start : start + step])
    session.end_received()
    session.wire_lost()
    assert wire.take().count(b"connection: close") <= 1


@given(HTTP2_BYTES, st.integers(1, 50))
def test_http2_session_survives(data: bytes, step: int) -> None:
    wire = FakeWire()
    due: list[object] = []
    session = H2Session(NO_APPLICATION, wire, services(), call_soon=due.append)
    session.start()
    data = PREFACE + data
    for start in range(0, len(data), step):
        session.data_received(data[start : start + step])
    session.send_goaway()
    session.wire_lost()
    assert wire.take().startswith(b"\0\0")

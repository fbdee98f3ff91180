"""The contract with aioquic: each private name that we use is there and is what we take it for."""

import inspect
import re
from pathlib import Path

import aioquic
import pytest
from aioquic import tls
from aioquic.buffer import Buffer
from aioquic.h3.connection import H3Connection
from aioquic.quic.connection import QuicConnection
from aioquic.quic.packet_builder import QuicPacketBuilder
from aioquic.quic.recovery import QuicPacketPacer
from aioquic.quic.stream import QuicStream, QuicStreamReceiver

import masque_relay.quic
from masque_relay.quic import aioquic_private as private
from masque_relay.quic.h3_framing import H3Framing
from masque_relay.quic.hardened import HardenedQuicConnection
from masque_relay.quic.stream_receiver import PieceReceiver
from masque_relay.quic.tls import HardenedTlsContext
from tests.support.aioquic_relays import Attacker, OurRelay

SIGNATURES = {
    (QuicConnection, "_close_end"): ["self"],
    (QuicConnection, "_flush_builder"): ["self", "builder", "network_path", "peer_cid", "now"],
    (QuicConnection, "_handle_ack_frame"): ["self", "context", "frame_type", "buf"],
    (QuicConnection, "_handle_crypto_frame"): ["self", "context", "frame_type", "buf"],
    (QuicConnection, "_handle_datagram_frame"): ["self", "context", "frame_type", "buf"],
    (QuicConnection, "_handle_stream_frame"): ["self", "context", "frame_type", "buf"],
    (QuicConnection, "_initialize"): ["self", "peer_cid"],
    (QuicConnection, "_parse_transport_parameters"): ["self", "data", "from_session_ticket"],
    (QuicConnection, "_get_or_create_stream"): ["self", "frame_type", "stream_id"],
    (QuicConnection, "_get_or_create_stream_for_send"): ["self", "stream_id"],
    (QuicConnection, "_payload_received"): [
        "self",
        "context",
        "plain",
        "crypto_frame_required",
    ],
    (QuicConnection, "_replenish_connection_ids"): ["self"],
    (QuicConnection, "_update_traffic_key"): [
        "self",
        "direction",
        "epoch",
        "cipher_suite",
        "secret",
    ],
    (QuicConnection, "_write_application"): ["self", "builder", "network_path", "now"],
    (QuicConnection, "_write_connection_limits"): ["self", "builder", "space"],
    (QuicConnection, "_write_datagram_frame"): ["self", "builder", "data", "frame_type"],
    (QuicConnection, "_write_reset_stream_frame"): ["self", "builder", "stream"],
    (QuicConnection, "_write_stop_sending_frame"): ["self", "builder", "stream"],
    (QuicConnection, "_write_stream_limits"): ["self", "builder", "space", "stream"],
    (tls.Context, "_server_handle_certificate"): ["self", "input_buf"],
    (tls.Context, "_server_handle_hello"): ["self", "input_buf", "initial_buf", "handshake_buf"],
    (H3Connection, "_check_control_frame_type"): ["self", "frame_type"],
    (H3Connection, "_check_request_or_push_frame_type"): ["self", "frame_type", "stream"],
    (H3Connection, "_decode_headers"): ["self", "stream_id", "frame_data"],
    (H3Connection, "_handle_control_frame"): ["self", "frame_type", "frame_data"],
    (H3Connection, "_handle_request_or_push_frame"): [
        "self",
        "frame_type",
        "frame_data",
        "stream",
        "stream_ended",
    ],
    (H3Connection, "_receive_stream_data"): ["self", "event"],
    (H3Connection, "_receive_stream_data_uni"): ["self", "stream", "data", "stream_ended"],
    (QuicStreamReceiver, "__init__"): ["self", "stream_id", "readable"],
    (QuicStreamReceiver, "handle_frame"): ["self", "frame"],
    (QuicStreamReceiver, "handle_reset"): ["self", "final_size", "error_code"],
    (QuicPacketPacer, "update_rate"): ["self", "congestion_window", "smoothed_rtt"],
}


@pytest.fixture(scope="module")
def attacker() -> Attacker:
    attacker = Attacker(OurRelay)
    attacker.quic.send_stream_data(0, b"\x00")
    attacker.settle()
    return attacker


class TestContract:
    """What a new version of aioquic must still have; else the pin stays where it is."""

    def test_the_version_is_the_pinned_one(self) -> None:
        major, minor, patch = (int(part) for part in aioquic.__version__.split(".")[:3])
        assert (1, 7, 2) <= (major, minor, patch) < (1, 8, 0)

    @pytest.mark.parametrize(
        ("owner", "names"),
        [
            pytest.param(QuicConnection, private.CONNECTION_METHODS, id="QuicConnection"),
            pytest.param(tls.Context, private.TLS_METHODS, id="tls.Context"),
            pytest.param(H3Connection, private.H3_METHODS, id="H3Connection"),
            pytest.param(QuicStreamReceiver, private.RECEIVER_METHODS, id="QuicStreamReceiver"),
        ],
    )
    def test_the_methods_exist(self, owner: type, names: tuple[str, ...]) -> None:
        missing = [name for name in names if not inspect.isfunction(vars(owner).get(name))]
        assert missing == []

    @pytest.mark.parametrize(("owner", "name"), SIGNATURES)
    def test_the_methods_take_what_we_pass_on(self, owner: type, name: str) -> None:
        parameters = list(inspect.signature(vars(owner)[name]).parameters)
        assert parameters == SIGNATURES[owner, name]

    def test_the_attributes_exist_on_live_objects(self, attacker: Attacker) -> None:
        connection = attacker.quic
        stream = connection._streams[0]
        assert attacker.h3 is not None
        for thing, names in (
            (connection, private.CONNECTION_ATTRIBUTES),
            (connection.tls, private.TLS_ATTRIBUTES),
            (connection._loss, private.RECOVERY_ATTRIBUTES),
            (connection._loss._pacer, private.PACER_ATTRIBUTES),
            (stream.receiver, private.RECEIVER_ATTRIBUTES),
            (stream.sender, private.SENDER_ATTRIBUTES),
            (attacker.h3, private.H3_ATTRIBUTES),
            (
                QuicPacketBuilder(
                    host_cid=b"", peer_cid=b"", version=1, is_client=True, max_datagram_size=1200
                ),
                private.BUILDER_ATTRIBUTES,
            ),
        ):
            missing = [name for name in names if not hasattr(thing, name)]
            assert missing == [], type(thing).__name__

    def test_overrides_override_something(self) -> None:
        for ours, theirs in (
            (HardenedQuicConnection, QuicConnection),
            (HardenedTlsContext, tls.Context),
            (H3Framing, H3Connection),
            (PieceReceiver, QuicStreamReceiver),
        ):
            for base in ours.__mro__[: ours.__mro__.index(theirs)]:
                for name in vars(base):
                    if name.startswith("_") and not name.startswith("__") and name in vars(theirs):
                        listed = (
                            private.CONNECTION_METHODS + private.TLS_METHODS + private.H3_METHODS
                        )
                        assert name in listed, f"{base.__name__}.{name} is not in the table"

    def test_the_tables_are_what_the_sources_use(self, attacker: Attacker) -> None:
        tables = {
            name for value in vars(private).values() if isinstance(value, tuple) for name in value
        }
        assert attacker.h3 is not None
        theirs = (
            *(dir(owner) for owner in (QuicConnection, tls.Context, H3Connection)),
            *(vars(thing) for thing in (attacker.quic, attacker.quic.tls, attacker.h3)),
        )
        of_aioquic = {name for names in theirs for name in names}
        package = Path(masque_relay.quic.__file__).parent
        sources = [
            (package / f"{name}.py").read_text(encoding="utf-8")
            for name in (
                "aioquic_private",
                "busy_streams",
                "congestion",
                "credit",
                "datagrams",
                "h3_framing",
                "hardened",
                "quiet_turns",
                "stream_receiver",
                "tls",
            )
        ]
        through_self = {
            name
            for text in sources
            for name in re.findall(r"(?:self|super\(\))\.(_[a-z]\w+)", text)
        }
        assert (through_self & of_aioquic) - tables == set(), "used, but not in the tables"
        without_tables = re.sub(r"Final = \(.*?\)", "", "".join(sources), flags=re.DOTALL)
        unused = {name for name in tables if not re.search(rf"\b{name}\b", without_tables)}
        assert unused == set(), "in the tables, but not used"


class TestAccessors:
    def test_unsent_bytes_are_counted(self) -> None:
        stream = QuicStream(stream_id=0)
        stream.sender.write(b"abc")
        assert private.unsent_bytes(stream) == 3
        assert not private.sending_is_over(stream)
        stream.sender.write(b"", end_stream=True)
        assert private.sending_is_over(stream)

    def test_a_reset_ends_sending(self) -> None:
        stream = QuicStream(stream_id=0)
        stream.sender.reset(7)
        assert private.sending_is_over(stream)

    def test_only_what_flow_control_allows_is_sendable(self) -> None:
        stream = QuicStream(stream_id=0)
        assert not private.has_sendable(stream, 10)
        stream.sender.write(b"abc")
        assert private.has_sendable(stream, 1)
        assert not private.has_sendable(stream, 0)
        stream.sender.get_frame(3, 3)
        assert not private.has_sendable(stream, 10)
        stream.sender.write(b"", end_stream=True)
        assert private.has_sendable(stream, 0)

    def test_the_buffer_is_the_one_that_aioquic_uses(self) -> None:
        assert private.Buffer is Buffer

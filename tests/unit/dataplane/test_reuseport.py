"""The selector, run by a small interpreter; tests/integration/dataplane has the kernel run it."""

import pytest

from masque_relay.dataplane.reuseport import Selection, program_for

SELECTION = Selection(modulus=8, offset=0, other_modulus=4, other_offset=4)
NETWORK_HEADER = 0xFFF00000
IPV4_FROM_1001 = b"\x45" + bytes(19) + (1001).to_bytes(2, "big")
IPV6_FROM_1002 = b"\x60" + bytes(39) + (1002).to_bytes(2, "big")


def selected(  # noqa: C901 (a case per instruction)
    payload: bytes, *, packet: bytes = IPV4_FROM_1001, selection: Selection = SELECTION
) -> int:
    """Run the program as bpf(4) says; a load beyond the packet returns 0."""
    program, at, accumulator = program_for(selection), 0, 0
    for _ in range(len(program)):
        code, if_true, if_false, operand = program[at]
        at += 1
        match code:
            case 0x30 | 0x28:
                data, offset = payload, operand
                if operand >= NETWORK_HEADER:
                    data, offset = packet, operand - NETWORK_HEADER
                size = 1 if code == 0x30 else 2
                if offset + size > len(data):
                    return 0
                accumulator = int.from_bytes(data[offset : offset + size], "big")
            case 0x74:
                accumulator >>= operand
            case 0x94:
                accumulator %= operand
            case 0x04:
                accumulator += operand
            case 0x05:
                at += operand
            case 0x45:
                at += if_true if accumulator & operand else if_false
            case 0x15:
                at += if_true if accumulator == operand else if_false
            case 0x16:
                return accumulator
            case _:
                raise AssertionError(f"unknown code {code:#x}")
    raise AssertionError("the program does not end")


@pytest.mark.parametrize("first_byte", range(0x40, 0x80))
def test_a_short_header_goes_by_the_byte_after_it(first_byte: int) -> None:
    assert [selected(bytes((first_byte, byte))) for byte in range(256)] == [
        byte % 8 for byte in range(256)
    ]


@pytest.mark.parametrize("first_byte", range(0xC0, 0x100))
def test_a_long_header_goes_by_the_first_byte_of_its_destination(first_byte: int) -> None:
    head = bytes((first_byte, 0, 0, 0, 1, 8))
    assert [selected(head + bytes((byte,))) for byte in range(256)] == [
        byte % 8 for byte in range(256)
    ]


@pytest.mark.parametrize("first_byte", range(0x40))
def test_anything_else_goes_by_its_source_port(first_byte: int) -> None:
    assert selected(bytes((first_byte, 7))) == 1001 % 4 + 4
    assert selected(bytes((first_byte, 7)), packet=IPV6_FROM_1002) == 1002 % 4 + 4


@pytest.mark.parametrize("payload", [b"", b"\x40", b"\xc0\0\0\0\1\x08"])
def test_a_packet_that_is_cut_short_goes_to_the_first(payload: bytes) -> None:
    assert selected(payload) == 0


@pytest.mark.parametrize("first_byte", range(256))
def test_a_port_without_quic_goes_by_source_port_alone(first_byte: int) -> None:
    # TURN's ChannelData looks like a short header (RFC 9443 section 3).
    elsewhere = Selection(is_quic=False, other_modulus=4, other_offset=4)
    assert selected(bytes((first_byte, 7)), selection=elsewhere) == 1001 % 4 + 4

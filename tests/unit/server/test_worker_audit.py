"""Audit lines on their way from workers to the one trail."""

import asyncio
import socket

import pytest

from masque_relay.server.worker_audit import MAX_RECORD_BYTES, AuditInlet, AuditPipe


async def test_lines_arrive_whole_however_many_there_are() -> None:
    sending, receiving = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    lines = b"".join(b'{"number": %d, "text": "%s"}\n' % (n, b"x" * 300) for n in range(2_000))
    parts: list[bytes] = []
    done = asyncio.Event()

    def pass_on(part: bytes) -> None:
        parts.append(part)
        if sum(map(len, parts)) >= len(lines):
            done.set()

    inlet = AuditInlet(receiving, pass_on)
    inlet.open()
    pipe = AuditPipe(sending)
    await asyncio.to_thread(pipe.write, lines)
    async with asyncio.timeout(10):
        await done.wait()
    assert b"".join(parts) == lines
    assert all(part.endswith(b"\n") and len(part) <= MAX_RECORD_BYTES for part in parts)
    pipe.close()
    inlet.close()
    inlet.close()


async def test_what_a_dead_worker_had_sent_is_not_lost() -> None:
    sending, receiving = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    parts: list[bytes] = []
    inlet = AuditInlet(receiving, parts.append)
    inlet.open()
    pipe = AuditPipe(sending)
    pipe.write(b"last words\n")
    pipe.close()
    inlet.close()
    assert parts == [b"last words\n"]


async def test_a_socket_that_is_handed_on_keeps_what_comes() -> None:
    sending, receiving = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    parts: list[bytes] = []
    inlet = AuditInlet(receiving, parts.append)
    inlet.open()
    inlet.release()
    pipe = AuditPipe(sending)
    pipe.write(b"for the next one\n")
    await asyncio.sleep(0)
    assert not parts
    assert receiving.recv(1024) == b"for the next one\n"
    pipe.close()
    inlet.close()


def test_a_supervisor_that_is_gone_is_an_error() -> None:
    sending, receiving = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    receiving.close()
    pipe = AuditPipe(sending)
    with pytest.raises(OSError, match="pipe"):
        pipe.write(b"line\n")
    pipe.close()

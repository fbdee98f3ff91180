"""Owns `ghostctl peer`: this machine in the mesh; what it offers, and what it uses of others."""

import asyncio
import os
import sys
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import click
import orjson
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from masque_relay.cli.client_errors import fail_with
from masque_relay.cli.client_report import write_whole
from masque_relay.cli.output import ExitCode, fail, json_option, print_json
from masque_relay.cli.peer_node import (
    NodeReport,
    PeerChoice,
    key_option,
    load_identity,
    peer_argument,
    peer_options,
)
from masque_relay.cli.until_signal import until_signal
from masque_relay.client import ClientError, parse_target
from masque_relay.client.address import parse_listen
from masque_relay.client.byte_stream import READ_BYTES
from masque_relay.client.mesh import files
from masque_relay.client.mesh.expose import (
    PING_SERVICE,
    Exposure,
    serve_ping,
    serve_tcp,
    serve_udp,
)
from masque_relay.client.mesh.forward import TcpPeerForward, UdpPeerForward
from masque_relay.client.mesh.node import MeshNode
from masque_relay.client.mesh.peer_stream import PeerStream
from masque_relay.wire.peer_id import format_peer_id

PING_BYTES = 56
PING_TIMEOUT_S = 5.0
PIPE_SERVICE = b"pipe"

_STDIN, _STDOUT = 0, 1

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.group()
def peer() -> None:
    """Meet other machines at a relay, end-to-end encrypted.

    \b
    Examples:
      ghostctl peer id
      ghostctl peer listen --relay https://relay.example --token-file token ssh=127.0.0.1:22
      ghostctl peer forward --relay https://relay.example --token-file token \\
          PEER :2222=ssh
    """


@peer.command("id")
@key_option
@json_option
def show_id(key_file: Path, as_json: bool) -> None:
    """Print this machine's peer id; its key is made if there is none.

    \b
    Examples:
      ghostctl peer id
    """
    identity = load_identity(key_file)
    if as_json:
        print_json({"peer_id": str(identity), "key_file": str(key_file.expanduser())})
    else:
        click.echo(str(identity))


@peer.command()
@peer_options
@click.option("--inbox", type=click.Path(path_type=Path, file_okay=False), help="Take files there.")
@click.option("--ready-file", type=_FILE, help="Write the peer id there, as JSON, once ready.")
@json_option
@click.argument("exposed", metavar="NAME=HOST:PORT...", nargs=-1)
def listen(
    chosen: PeerChoice,
    inbox: Path | None,
    ready_file: Path | None,
    as_json: bool,
    exposed: tuple[str, ...],
) -> None:
    """Be reachable, and offer local ports to the peers that the relay's policy lets through.

    NAME=HOST:PORT offers a TCP port under a name, NAME=udp:HOST:PORT a UDP port. Pings are always
    answered; files are taken with --inbox.

    \b
    Examples:
      ghostctl peer listen --relay https://relay.example --token-file token ssh=127.0.0.1:22
      ghostctl peer listen --relay https://relay.example --token-file token \\
          web=127.0.0.1:8080 dns=udp:127.0.0.1:53 --inbox ~/inbox
    """
    report = NodeReport(str(chosen.relay.address), as_json=as_json)
    try:
        exposures = [Exposure.parse(text, parse_target) for text in exposed]
        if inbox is not None:
            inbox.mkdir(parents=True, exist_ok=True)
        asyncio.run(_listen(chosen, exposures, inbox, ready_file, report))
    except ClientError as error:
        report.failed(error)
        fail_with(error)


@asynccontextmanager
async def running(chosen: PeerChoice, report: NodeReport) -> AsyncGenerator[MeshNode]:
    """Run a node until a signal ends the command."""
    async with until_signal(lambda: None), chosen.node(report) as node:
        yield node


async def _listen(
    chosen: PeerChoice,
    exposures: Sequence[Exposure],
    inbox: Path | None,
    ready_file: Path | None,
    report: NodeReport,
) -> None:
    async with (
        until_signal(lambda: None),
        chosen.node(report) as node,
        asyncio.TaskGroup() as tasks,
    ):
        for exposure in exposures:
            serve = partial(serve_udp if exposure.is_udp else serve_tcp, exposure)
            node.serve(exposure.service.encode(), partial(_start, tasks, serve))
        node.serve(PING_SERVICE, partial(_start, tasks, serve_ping))
        if inbox is not None:
            take = partial(_receive, inbox, report)
            node.serve(
                files.SERVICE, lambda sender, stream: tasks.create_task(take(sender, stream))
            )
        me = str(node.identity)
        if ready_file is not None:
            write_whole(ready_file, orjson.dumps({"peer_id": me}))
        report.tell(f"listening as {me}", event="listening", peer_id=me)
        await asyncio.Event().wait()


def _start(
    tasks: asyncio.TaskGroup,
    serve: Callable[[PeerStream], Coroutine[object, object, None]],
    _: bytes,
    stream: PeerStream,
) -> None:
    tasks.create_task(serve(stream))


async def _receive(inbox: Path, report: NodeReport, sender: bytes, stream: PeerStream) -> None:
    try:
        received = await files.receive_file(inbox, sender, stream)
    except ClientError as error:
        report.trouble(error, event="file_refused")
    except (OSError, UnicodeDecodeError) as error:
        stream.abort()
        report.trouble(ClientError(f"a file was not taken: {error}"), event="file_refused")
    else:
        who = format_peer_id(sender)
        report.tell(
            f"{received.path} ({received.size_bytes} bytes) from {who}",
            event="file",
            path=str(received.path),
            size_bytes=received.size_bytes,
            sender=who,
        )


@peer.command()
@peer_options
@click.option("--count", type=click.IntRange(min=1), default=4, show_default=True)
@json_option
@click.argument("other", metavar="PEER")
def ping(chosen: PeerChoice, count: int, as_json: bool, other: str) -> None:
    """Measure the round trip to another peer.

    \b
    Examples:
      ghostctl peer ping --relay https://relay.example --token-file token PEER
    """
    report = NodeReport(str(chosen.relay.address), as_json=as_json)
    peer_id = peer_argument(other)
    try:
        asyncio.run(_ping(chosen, peer_id, count, report))
    except ClientError as error:
        report.failed(error)
        fail_with(error)


async def _ping(chosen: PeerChoice, peer_id: bytes, count: int, report: NodeReport) -> None:
    async with running(chosen, report) as node:
        stream = await node.open_stream(peer_id, PING_SERVICE)
        for number in range(count):
            began_s = time.monotonic()
            await stream.write(number.to_bytes(PING_BYTES, "big"))
            left_bytes = PING_BYTES
            try:
                async with asyncio.timeout(PING_TIMEOUT_S):
                    while left_bytes:
                        left_bytes -= len(await stream.read(left_bytes)) or left_bytes
            except TimeoutError:
                report.tell(f"{number}: no answer", event="ping", number=number, rtt_ms=None)
                continue
            rtt_ms = (time.monotonic() - began_s) * 1_000
            report.tell(
                f"{number}: {rtt_ms:.1f} ms", event="ping", number=number, rtt_ms=round(rtt_ms, 3)
            )
            if number + 1 < count:
                await asyncio.sleep(0.2)
        stream.write_eof()


@peer.command()
@peer_options
@json_option
@click.argument("other", metavar="PEER")
@click.argument("paths", metavar="FILE...", nargs=-1, required=True, type=_FILE)
def send(chosen: PeerChoice, as_json: bool, other: str, paths: tuple[Path, ...]) -> None:
    """Send files to another peer's inbox; each arrives whole, or not at all.

    \b
    Examples:
      ghostctl peer send --relay https://relay.example --token-file token PEER photo.jpg
    """
    report = NodeReport(str(chosen.relay.address), as_json=as_json)
    peer_id = peer_argument(other)
    for path in paths:
        if not path.is_file():
            fail(f"{path}: no such file", exit_code=ExitCode.USAGE)
    try:
        asyncio.run(_send(chosen, peer_id, paths, report, show_bar=not as_json))
    except ClientError as error:
        report.failed(error)
        fail_with(error)


async def _send(
    chosen: PeerChoice,
    peer_id: bytes,
    paths: Sequence[Path],
    report: NodeReport,
    *,
    show_bar: bool,
) -> None:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
    )
    async with running(chosen, report) as node:
        with Progress(*columns, disable=not (show_bar and sys.stderr.isatty())) as progress:
            for path in paths:
                size_bytes = path.stat().st_size
                bar = progress.add_task(path.name, total=size_bytes)
                stream = await node.open_stream(peer_id, files.SERVICE)
                await files.send_file(path, stream, partial(progress.advance, bar))
                report.tell(
                    f"sent {path} ({size_bytes} bytes)",
                    event="sent",
                    path=str(path),
                    size_bytes=size_bytes,
                )


@peer.command()
@peer_options
@json_option
@click.argument("other", metavar="PEER")
@click.argument("service", metavar="NAME")
def connect(chosen: PeerChoice, as_json: bool, other: str, service: str) -> None:
    """Connect standard input and output with a service of another peer, as netcat does.

    What the command itself has to say goes to standard error, also with --json.

    \b
    Examples:
      ssh -o ProxyCommand='ghostctl peer connect --relay https://relay.example \\
          --token-file token PEER ssh' user@peer
    """
    report = _QuietReport(str(chosen.relay.address), as_json=as_json)
    peer_id = peer_argument(other)
    try:
        asyncio.run(_connect(chosen, peer_id, service.encode(), report))
    except ClientError as error:
        fail_with(error)


@peer.command()
@peer_options
@json_option
@click.argument("other", metavar="[PEER]", required=False)
def pipe(chosen: PeerChoice, as_json: bool, other: str | None) -> None:
    """Pipe standard input to another peer's standard output, and back.

    Without PEER: wait for one that pipes to us. What the command itself has to say goes to standard
    error, also with --json.

    \b
    Examples:
      ghostctl peer pipe --relay https://relay.example --token-file token > copy.tar
      tar c . | ghostctl peer pipe --relay https://relay.example --token-file token PEER
    """
    report = _QuietReport(str(chosen.relay.address), as_json=as_json)
    peer_id = None if other is None else peer_argument(other)
    try:
        if peer_id is None:
            asyncio.run(_wait_for_pipe(chosen, report))
        else:
            asyncio.run(_connect(chosen, peer_id, PIPE_SERVICE, report))
    except ClientError as error:
        fail_with(error)


class _QuietReport(NodeReport):
    """Standard output belongs to the data: the one line about the way goes to standard error."""

    def _say(self, line: str, **values: object) -> None:
        click.echo(orjson.dumps(values) if self._as_json else f"ghostctl: {line}", err=True)


async def _connect(chosen: PeerChoice, peer_id: bytes, service: bytes, report: NodeReport) -> None:
    async with running(chosen, report) as node:
        await _pump(await node.open_stream(peer_id, service))


async def _wait_for_pipe(chosen: PeerChoice, report: NodeReport) -> None:
    async with running(chosen, report) as node:
        came: asyncio.Future[PeerStream] = asyncio.get_running_loop().create_future()

        def take(_: bytes, stream: PeerStream) -> None:
            if came.done():
                stream.abort()
            else:
                came.set_result(stream)

        node.serve(PIPE_SERVICE, take)
        report.tell(f"waiting as {node.identity}", event="listening", peer_id=str(node.identity))
        await _pump(await came)


async def _pump(stream: PeerStream) -> None:
    """Copy standard input to the stream and the stream to standard output, until both end."""
    loop = asyncio.get_running_loop()

    async def upwards() -> None:
        while data := await loop.run_in_executor(None, os.read, _STDIN, READ_BYTES):
            await stream.write(data)
        stream.write_eof()

    async with asyncio.TaskGroup() as tasks:
        rising = tasks.create_task(upwards())
        while data := await stream.read():
            await loop.run_in_executor(None, _write_all, data)
        if not rising.done() and sys.stdin.isatty():
            rising.cancel()
    await stream.drain()


def _write_all(data: bytes) -> None:
    while data:
        data = data[os.write(_STDOUT, data) :]


@peer.command()
@peer_options
@click.option("--udp", "is_udp", is_flag=True, help="The service is a UDP port.")
@click.option("--ready-file", type=_FILE, help="Write what listens there, as JSON, once ready.")
@json_option
@click.argument("other", metavar="PEER")
@click.argument("forwards", metavar="LISTEN=NAME...", nargs=-1, required=True)
def forward(
    chosen: PeerChoice,
    is_udp: bool,
    ready_file: Path | None,
    as_json: bool,
    other: str,
    forwards: tuple[str, ...],
) -> None:
    """Give services of another peer local ports.

    LISTEN is ADDRESS:PORT, or :PORT for 127.0.0.1; port 0 takes a free one.

    \b
    Examples:
      ghostctl peer forward --relay https://relay.example --token-file token PEER :2222=ssh
      ghostctl peer forward --relay https://relay.example --token-file token --udp PEER :5353=dns
    """
    report = NodeReport(str(chosen.relay.address), as_json=as_json)
    peer_id = peer_argument(other)
    try:
        asyncio.run(_forward(chosen, peer_id, forwards, ready_file, report, is_udp=is_udp))
    except ClientError as error:
        report.failed(error)
        fail_with(error)


async def _forward(
    chosen: PeerChoice,
    peer_id: bytes,
    forwards: Sequence[str],
    ready_file: Path | None,
    report: NodeReport,
    *,
    is_udp: bool,
) -> None:
    async with (
        until_signal(lambda: None),
        chosen.node(report) as node,
        asyncio.TaskGroup() as tasks,
    ):
        ports = [_make_forward(node, peer_id, text, is_udp=is_udp) for text in forwards]
        listening = [
            {"listen": f"127.0.0.1:{one.port}", "service": text.partition("=")[2]}
            for one, text in zip(ports, forwards, strict=True)
        ]
        for one in ports:
            tasks.create_task(one.run())
        if ready_file is not None:
            write_whole(ready_file, orjson.dumps({"forwards": listening}))
        for told in listening:
            report.tell(f"{told['listen']} -> {told['service']}", event="forward", **told)


def _make_forward(
    node: MeshNode, peer_id: bytes, text: str, *, is_udp: bool
) -> TcpPeerForward | UdpPeerForward:
    listen_text, _, service = text.partition("=")
    kind = UdpPeerForward if is_udp else TcpPeerForward
    return kind(node, peer_id, service.encode(), parse_listen(listen_text))

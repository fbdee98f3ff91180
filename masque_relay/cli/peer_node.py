"""Owns what the `ghostctl peer` commands share: options, the node, and how it talks."""

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from functools import wraps
from pathlib import Path

import click

from masque_relay.cli.client_errors import fail_with
from masque_relay.cli.client_report import ClientReport
from masque_relay.cli.output import ExitCode, fail
from masque_relay.cli.relay_options import RelayChoice, relay_options
from masque_relay.client import Bearer, ClientError
from masque_relay.client.mesh.direct_peers import PathChange
from masque_relay.client.mesh.identity import PeerIdentity
from masque_relay.client.mesh.network import network_now
from masque_relay.client.mesh.node import MeshNode
from masque_relay.client.mesh.proxy_choice import chosen_proxy
from masque_relay.client.mesh.remembered import WayMemory, default_file
from masque_relay.client.mesh.uplink import UplinkChange, UplinkSettings, UplinkState
from masque_relay.client.mesh.way import WayKind
from masque_relay.client.mesh.ways import DEFAULT_ORDER, ways_to
from masque_relay.client.turn.server import TurnRoute, load_turn_route
from masque_relay.wire.errors import WireError
from masque_relay.wire.peer_id import format_peer_id, parse_peer_id

DEFAULT_KEY_FILE = Path("~/.config/ghostwire/peer.key.pem")

key_option = click.option(
    "--key",
    "key_file",
    type=click.Path(path_type=Path, dir_okay=False),
    default=DEFAULT_KEY_FILE,
    show_default=True,
    help="This peer's private key; made if it does not exist.",
)


proxy_option = click.option(
    "--proxy",
    metavar="URL",
    help="http://… or socks5h://… that leads out of this network, `none` for none."
    " Without it: HTTPS_PROXY, ALL_PROXY, NO_PROXY.",
)


turn_option = click.option(
    "--turn",
    "turn_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="A file with TURN servers that lead to the relay where nothing else does: an entry of"
    " iceServers, as `ghostctl token turn --json --uri URI` prints it.",
)


class NodeReport(ClientReport):
    """Says in one line which way is used and why."""

    def changed(self, change: UplinkChange) -> None:
        """Tell of the session."""
        if change.state is UplinkState.UP:
            why = f" (not: {change.why})" if change.why else ""
            self._say(
                f"at {self._relay} by {change.kind}{why}",
                event="session",
                way=str(change.kind),
                remote=change.remote,
                why=change.why,
            )
        else:
            self._warn(f"the relay is away: {change.why}", None, event="relay_away")

    def path_changed(self, change: PathChange) -> None:
        """Tell whether a peer is reached directly."""
        peer_id = format_peer_id(change.peer_id)
        address = None if change.address is None else "{}:{}".format(*change.address)
        how = "through the relay" if address is None else f"directly at {address}"
        self._say(f"{peer_id} {how}", event="path", peer_id=peer_id, address=address)

    def tell(self, line: str, **values: object) -> None:
        """Say one thing, to people or to scripts."""
        self._say(line, **values)

    def trouble(self, error: ClientError, **values: object) -> None:
        """Say what went wrong with one thing while the command goes on."""
        self._warn(error.message, error.hint, **values)


class PeerChoice:
    """What the options mean."""

    def __init__(
        self,
        relay: RelayChoice,
        key_file: Path,
        ways: tuple[str, ...],
        proxy: str | None,
        turn_file: Path | None,
    ) -> None:
        self.relay = relay
        self.identity = load_identity(key_file)
        kinds = [WayKind(way) for way in ways] or DEFAULT_ORDER
        url = proxy_argument(proxy, relay)
        turn = turn_argument(turn_file)
        openers = ways_to(relay.address, relay.options, kinds=kinds, proxy=url, turn=turn)
        if not openers and url is None:
            fail(
                "--way turn wants to know a TURN server",
                hint="name it in a file, and the file with --turn",
                exit_code=ExitCode.USAGE,
            )
        if not openers:
            fail(
                "none of these ways can use a proxy",
                hint="leave --way out, or give --way websocket or --way https",
                exit_code=ExitCode.USAGE,
            )
        self._memory = WayMemory(default_file())
        self.settings = UplinkSettings(
            ways=openers,
            remembered=self._recall(),
            token=token_of(relay),
            relay_name=relay.address.host,
        )

    @asynccontextmanager
    async def node(self, report: NodeReport) -> AsyncGenerator[MeshNode]:
        """Run a node while the block runs; the block begins when its session is up."""
        try:
            async with MeshNode(
                self.identity,
                self.settings,
                on_change=lambda change: self._changed(report, change),
                on_path=report.path_changed,
                recall=self._recall,
            ) as node:
                await node.wait_up()
                yield node
        except* ClientError as errors:
            raise _first(errors) from None

    def _changed(self, report: NodeReport, change: UplinkChange) -> None:
        report.changed(change)
        if change.kind is not None:
            self._memory.remember(self._network(), change.kind)

    def _recall(self) -> WayKind | None:
        return self._memory.recall(self._network())

    def _network(self) -> str:
        """Ways may differ by relay, too."""
        return f"{self.relay.address} {network_now()}"


def peer_options(command: Callable[..., object]) -> Callable[..., object]:
    """Add the options of a peer; the command gets them as ``chosen: PeerChoice``."""

    @wraps(command)
    def with_choice(
        chosen: RelayChoice,
        key_file: Path,
        ways: tuple[str, ...],
        proxy: str | None,
        turn_file: Path | None,
        **others: object,
    ) -> object:
        choice = PeerChoice(chosen, key_file, ways, proxy, turn_file)
        return command(chosen=choice, **others)

    wrapped: Callable[..., object] = with_choice
    for option in (
        turn_option,
        proxy_option,
        click.option(
            "--way",
            "ways",
            multiple=True,
            type=click.Choice([str(kind) for kind in DEFAULT_ORDER]),
            help="Use these ways only, in this order; repeatable.",
        ),
        key_option,
    ):
        wrapped = option(wrapped)
    return relay_options(wrapped)


def load_identity(key_file: Path) -> PeerIdentity:
    """Return the identity of a file, or leave with the next step."""
    try:
        return PeerIdentity.load_or_make(key_file.expanduser())
    except ClientError as error:
        fail_with(error)


def proxy_argument(option: str | None, relay: RelayChoice) -> str | None:
    """Return the proxy to use, or leave with the next step."""
    try:
        return chosen_proxy(option, relay.address.host)
    except ClientError as error:
        fail_with(error)


def turn_argument(file: Path | None) -> TurnRoute | None:
    """Return the TURN servers of a file, or leave with the next step."""
    try:
        return None if file is None else load_turn_route(file)
    except ClientError as error:
        fail_with(error)


def peer_argument(text: str) -> bytes:
    """Return the peer id that an argument names, or leave with the next step."""
    try:
        return parse_peer_id(text)
    except WireError as error:
        fail(
            f"{text!r}: {error.detail}",
            hint="on the other machine: ghostctl peer id",
            exit_code=ExitCode.USAGE,
        )


def token_of(relay: RelayChoice) -> str:
    """The ways that have no field for a credential bring the token in the handshake."""
    credential = relay.options.credential
    if not isinstance(credential, Bearer):
        return ""
    try:
        return credential.authorization().decode("ascii").removeprefix("Bearer ")
    except ClientError as error:
        fail_with(error)


def _first(errors: BaseExceptionGroup[ClientError]) -> ClientError:
    inner = errors.exceptions[0]
    return _first(inner) if isinstance(inner, BaseExceptionGroup) else inner

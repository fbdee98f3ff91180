"""Owns how the relay comes by its upstream: configuration -> a link that is kept up, a Chain."""

import asyncio
import hashlib
import hmac
from contextlib import AsyncExitStack

import structlog

from masque_relay.client.address import RelayAddress
from masque_relay.client.credentials import Basic, Bearer, Credential, MutualTls
from masque_relay.client.errors import AddressError
from masque_relay.client.events import ClientEvent, RelayAway, RelayConnected
from masque_relay.client.http_version import HttpChoice
from masque_relay.client.limits import ClientLimits, ReconnectLimits
from masque_relay.client.link import RelayLink
from masque_relay.client.split import SplitRule, SplitRules, Way
from masque_relay.client.uplink import RelayOptions
from masque_relay.config import RelayConfig
from masque_relay.config.upstream import UpstreamResolve, UpstreamSection
from masque_relay.contract.counters import UpstreamCounters
from masque_relay.contract.errors import ConfigError, Problem
from masque_relay.contract.ports import Dataplane
from masque_relay.control.gate import RelayGate
from masque_relay.quic.retry import EndpointSecrets
from masque_relay.server.chain import Chain

BUG_PAUSE_S = 5.0
"""After an error that nobody foresaw: it may come again at once."""

_log = structlog.get_logger(__name__)


async def open_chain(
    stack: AsyncExitStack,
    config: RelayConfig,
    *,
    gate: RelayGate,
    dataplane: Dataplane,
    secrets: EndpointSecrets,
    counters: UpstreamCounters,
) -> Chain | None:
    """Begin to connect to the upstream relay; None where there is none.

    The relay serves at once: targets upstream are refused as long as the link is down.

    Raises:
        ConfigError: the section says something that cannot be.
    """
    section = config.upstream
    if not section.url:
        return None
    address, rules = _address(section), _rules(section)
    limits = ClientLimits(open_timeout_s=section.open_timeout_s)
    link = RelayLink.to(
        address,
        RelayOptions(
            ca_file=section.ca_file,
            credential=_credential(section),
            http=HttpChoice(section.http.value),
            limits=limits,
        ),
        reconnect=ReconnectLimits(connections=section.connections),
        on_event=_Watch(counters),
    )
    group = await stack.enter_async_context(asyncio.TaskGroup())
    running = group.create_task(keep_up(link), name="upstream")
    stack.callback(running.cancel)
    return Chain(
        link=link,
        address=address,
        client_limits=limits,
        rules=rules,
        resolves_upstream=section.resolve is UpstreamResolve.UPSTREAM,
        pseudonym=pseudonym_from(secrets),
        max_hops=section.max_hops,
        proxy_name=config.connect_udp.proxy_name,
        gate=gate,
        names=gate,
        dataplane=dataplane,
        resolve_timeout_s=config.http.resolve_timeout_s,
        counters=counters,
    )


async def keep_up(link: RelayLink, *, pause_s: float = BUG_PAUSE_S) -> None:
    """Run a link for ever: what it does not expect must not end the relay, direct tunnels and all.

    Args:
        link: closes its connections whenever its ``run`` ends.
        pause_s: before it is run again.
    """
    while True:
        try:
            await link.run()
        except Exception:  # noqa: BLE001  (STYLE 17: a bug in the way upstream ends no other)
            _log.exception("the way to the upstream relay failed")
            await asyncio.sleep(pause_s)


def pseudonym_from(secrets: EndpointSecrets) -> str:
    """Return our name in ``via``: the same in all workers, and telling nothing."""
    digest = hmac.digest(secrets.reset_key, b"ghostwire via pseudonym", hashlib.sha256)
    return "gw-" + digest[:10].hex()


class _Watch:
    """Counts the ups and downs of the link, and logs them; an OnEvent."""

    def __init__(self, counters: UpstreamCounters) -> None:
        self._counters = counters

    def __call__(self, event: ClientEvent) -> None:
        match event:
            case RelayConnected():
                self._counters.connected += 1
                _log.info("upstream relay connected", peer=str(event.peer))
            case RelayAway():
                self._counters.away += 1
                _log.warning(
                    "upstream relay away",
                    error=event.error.message,
                    hint=event.error.hint,
                    retry_in_s=round(event.retry_in_s, 1),
                )
            case _:
                pass  # of forwards, which a relay has none of


def _address(section: UpstreamSection) -> RelayAddress:
    try:
        return RelayAddress.parse(section.url)
    except AddressError as error:
        raise _problem("upstream.url", error) from error


def _rules(section: UpstreamSection) -> SplitRules:
    rules: list[SplitRule] = []
    for index, text in enumerate(section.rules):
        try:
            rule = SplitRule.parse(text)
            if rule.way is Way.BLOCK:
                raise AddressError("the policy says what is blocked", hint="use proxy or direct")
        except AddressError as error:
            raise _problem(f"upstream.rules[{index}]", error) from error
        rules.append(rule)
    return SplitRules(rules, default=Way(section.default.value))


def _problem(key_path: str, error: AddressError) -> ConfigError:
    return ConfigError([Problem(key_path=key_path, detail=error.message, hint=error.hint)])


def _credential(section: UpstreamSection) -> Credential | None:
    if section.token_file is not None:
        return Bearer(file=section.token_file)
    if section.basic_file is not None:
        return Basic(file=section.basic_file)
    if section.client_certificate_file is not None and section.client_key_file is not None:
        return MutualTls(
            certificate_file=section.client_certificate_file, key_file=section.client_key_file
        )
    return None

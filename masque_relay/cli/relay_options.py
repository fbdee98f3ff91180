"""Owns the options that say which relay a client command uses, and how it is let in."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path

import click

from masque_relay.cli.client_errors import fail_with
from masque_relay.cli.output import ExitCode, fail
from masque_relay.client import (
    Basic,
    Bearer,
    ClientError,
    ClientLimits,
    Credential,
    HttpChoice,
    MutualTls,
    RelayAddress,
    RelayOptions,
)

_FILE = click.Path(path_type=Path, dir_okay=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayChoice:
    """What the options mean."""

    address: RelayAddress
    options: RelayOptions


def relay_options(command: Callable[..., object]) -> Callable[..., object]:
    """Add the options that say which relay; the command gets them as ``chosen: RelayChoice``."""
    relay = click.option(
        "--relay", "relay_url", required=True, metavar="URL", help="https://HOST:PORT"
    )
    return _with_choice(command, relay)


def relay_argument(command: Callable[..., object]) -> Callable[..., object]:
    """Add the same with the relay as an argument that may be left out.

    The command gets ``chosen: RelayChoice | None``.
    """
    return _with_choice(command, click.argument("relay_url", metavar="[RELAY]", required=False))


def _with_choice(
    command: Callable[..., object],
    relay: Callable[[Callable[..., object]], Callable[..., object]],
) -> Callable[..., object]:
    @wraps(command)
    def with_choice(
        relay_url: str | None,
        template: str | None,
        ca_file: Path | None,
        token_file: Path | None,
        basic_file: Path | None,
        client_cert: Path | None,
        client_key: Path | None,
        http: str,
        connect_timeout_s: float,
        open_timeout_s: float,
        **others: object,
    ) -> object:
        if relay_url is None:
            return command(chosen=None, **others)
        credential = _credential(token_file, basic_file, client_cert, client_key)
        limits = ClientLimits(connect_timeout_s=connect_timeout_s, open_timeout_s=open_timeout_s)
        try:
            address = RelayAddress.parse(relay_url, template=template)
        except ClientError as error:
            fail_with(error)
        options = RelayOptions(
            ca_file=ca_file, credential=credential, http=HttpChoice(http), limits=limits
        )
        return command(chosen=RelayChoice(address=address, options=options), **others)

    options = (
        relay,
        click.option("--template", metavar="PATH", help="URI template, if not the default one."),
        click.option("--ca", "ca_file", type=_FILE, help="Trust only these certificates (PEM)."),
        click.option("--token-file", type=_FILE, help="A file with a bearer token."),
        click.option("--basic-file", type=_FILE, help="A file with user:password."),
        click.option("--client-cert", type=_FILE, help="Our certificate (PEM), with --client-key."),
        click.option("--client-key", type=_FILE, help="Its private key (PEM)."),
        click.option(
            "--http",
            type=click.Choice([choice.value for choice in HttpChoice]),
            default=HttpChoice.AUTO.value,
            show_default=True,
            help="HTTP version towards the relay; auto: 3, and where UDP is blocked 2 or 1.1.",
        ),
        click.option(
            "--connect-timeout",
            "connect_timeout_s",
            type=click.FloatRange(min=0.1),
            default=ClientLimits().connect_timeout_s,
            show_default=True,
            help="Seconds to wait for the relay's handshake.",
        ),
        click.option(
            "--open-timeout",
            "open_timeout_s",
            type=click.FloatRange(min=0),
            default=ClientLimits().open_timeout_s,
            show_default=True,
            help="Seconds to wait for the relay's answer to one tunnel request.",
        ),
    )
    wrapped: Callable[..., object] = with_choice
    for option in reversed(options):
        wrapped = option(wrapped)
    return wrapped


def _credential(
    token_file: Path | None,
    basic_file: Path | None,
    client_cert: Path | None,
    client_key: Path | None,
) -> Credential | None:
    """Return the one credential that was given; leave where the options contradict."""
    given = [value for value in (token_file, basic_file, client_cert or client_key) if value]
    if len(given) > 1:
        fail(
            "give one credential only",
            hint="one of --token-file, --basic-file, or --client-cert with --client-key",
            exit_code=ExitCode.USAGE,
        )
    if token_file is not None:
        return Bearer(file=token_file)
    if basic_file is not None:
        return Basic(file=basic_file)
    if client_cert is not None and client_key is not None:
        return MutualTls(certificate_file=client_cert, key_file=client_key)
    if client_cert is not None or client_key is not None:
        fail("--client-cert and --client-key come together", exit_code=ExitCode.USAGE)
    return None

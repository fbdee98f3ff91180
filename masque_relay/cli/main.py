"""Owns the `ghostctl` command: which noun lives in which file, loaded only when it is asked for."""

from importlib import import_module

import click

from masque_relay import __version__

COMMANDS = {
    "relay": "Run a relay, and manage a running one.",
    "tunnel": "Carry local UDP ports through a relay.",
    "proxy": "Serve SOCKS5 and HTTP proxy requests of local programs through a relay.",
    "peer": "Meet other machines at a relay: forward ports, send files, pipe.",
    "netcheck": "Try every way to a relay from here, and say what works.",
    "policy": "Check a policy file, and explain what it decides.",
    "token": "Issue and inspect tokens.",
    "key": "Make signing keys and password hashes.",
    "demo": "Start a relay and a client here and watch traffic go through.",
    "bench": "Measure a running relay, or the relay of a source tree beside a naive one.",
}
"""Command -> one line of help. The module is masque_relay.cli.<command>."""


class NounGroup(click.Group):
    """Imports a noun when it is used: `ghostctl token` does not wait for the QUIC stack."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the nouns in the order in which a newcomer meets them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the click command of a noun, or None if there is no such noun."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = getattr(import_module(f"masque_relay.cli.{cmd_name}"), cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the nouns without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.command(cls=NounGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="ghostctl")
def main() -> None:
    """Ghostwire: a MASQUE/HTTP/3 relay, its client and its tools.

    \b
    Examples:
      ghostctl demo
      ghostctl relay run --dev --state-dir state
      ghostctl tunnel udp --relay https://127.0.0.1:4433 --ca state/ca.pem \\
          --token-file state/token 127.0.0.1:5353=127.0.0.1:53
    """


if __name__ == "__main__":
    main()

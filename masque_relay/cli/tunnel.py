"""Owns `ghostctl tunnel`: which kind of tunnel lives in which file."""

import click

from masque_relay.cli.tunnel_check import check
from masque_relay.cli.tunnel_ip import ip
from masque_relay.cli.tunnel_udp import udp


@click.group()
def tunnel() -> None:
    """Carry local UDP ports, or whole networks, through a relay.

    \b
    Examples:
      ghostctl tunnel udp --relay https://relay.example --token-file token 127.0.0.1:5353=9.9.9.9:53
      ghostctl tunnel ip --relay https://relay.example --token-file token --route 10.0.0.0/8
      ghostctl tunnel check --relay https://relay.example --token-file token 9.9.9.9:53
    """


tunnel.add_command(udp)
tunnel.add_command(ip)
tunnel.add_command(check)

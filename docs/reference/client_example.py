"""Sends three datagrams through a relay and prints what comes back, by the Python API.

Usage: python3 docs/reference/client_example.py RELAY_URL CA_FILE TOKEN_FILE HOST PORT
"""
# ruff: noqa: INP001, T201 - a script of its own, which talks to a person

import asyncio
import sys
from pathlib import Path

from masque_relay.client import Bearer, ClientError, RelayAddress, RelayClient, RelayOptions


async def main(url: str, ca_file: str, token_file: str, host: str, port: str) -> None:
    """Open one tunnel and use it."""
    options = RelayOptions(ca_file=Path(ca_file), credential=Bearer(file=Path(token_file)))
    async with (
        RelayClient(RelayAddress.parse(url), options) as relay,
        relay.open_udp(host, int(port)) as tunnel,
    ):
        print(f"open; payloads of up to {tunnel.max_payload_bytes} bytes fit")
        tunnel.send_batch([b"one", b"two", b"three"])
        async with asyncio.timeout(10):
            for _ in range(3):
                print((await tunnel.receive()).decode())


if __name__ == "__main__":
    try:
        asyncio.run(main(*sys.argv[1:]))
    except ClientError as error:
        sys.exit(f"{error.message}\n  next: {error.hint}")

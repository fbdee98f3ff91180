"""Floods of wrong passwords: a check is dear, so who sends them must not crowd others out."""

import asyncio
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from masque_relay.contract.address import Endpoint
from masque_relay.contract.request import BasicPassword
from masque_relay.control.auth.basic import BasicAuthenticator, User
from masque_relay.control.settings import BasicSettings

# argon2id of nothing that anybody knows, as cheap as it gets
HASH = "$argon2id$v=19$m=8,t=1,p=1$c29tZXNhbHRzb21lc2FsdA$c29tZWhhc2hzb21laGFzaA"
NOW_S = 1_700_000_000.0


@dataclass
class BusyPool(Executor):
    """Takes everything and finishes when it is told to."""

    futures: list[Future[Any]] = field(default_factory=list)

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        del fn, args, kwargs
        self.futures.append(Future())
        return self.futures[-1]


async def test_one_ipv6_subscriber_cannot_take_every_place() -> None:
    """Whoever has a /64 has more addresses than there are places."""
    settings = BasicSettings(users_file=Path("users.toml"))
    pool = BusyPool()
    basic = BasicAuthenticator(settings, {"alice": User(name="alice", password_hash=HASH)}, pool)

    async def attempt(source: str) -> None:
        credential = BasicPassword(user="alice", password="wrong")
        endpoint = Endpoint(address=ip_address(source), port=1)
        await basic.authenticate(credential, source=endpoint, now_s=NOW_S)

    async with asyncio.TaskGroup() as tasks:
        for number in range(2 * settings.max_pending):
            tasks.create_task(attempt(f"2001:db8:0:1::{number:x}"))
        await asyncio.sleep(0)
        assert len(pool.futures) == settings.max_pending_per_source
        tasks.create_task(attempt("2001:db8:0:2::1"))
        await asyncio.sleep(0)
        assert len(pool.futures) == settings.max_pending_per_source + 1
        for future in pool.futures:
            future.set_result(False)

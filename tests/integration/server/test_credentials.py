"""Every kind of credential that the configuration names reaches the gate of a relay process."""

import base64
from pathlib import Path

from masque_relay.config.dev_state import prepare_dev_state
from masque_relay.control.auth.basic import hash_password
from masque_relay.quic.application import Headers
from tests.integration.server.conftest import Connect, connect_udp, open_tunnel
from tests.support.managed_relay import ManagedRelay, managed_relay

POLICY = """
[[rule]]
name = "echo"
action = "allow"
who = ["dev", "bob"]
methods = ["connect-udp"]
targets = ["127.0.0.1/32:*"]
"""

CONFIG = """
[gate.basic]
users_file = "users.toml"
"""


def basic(relay: ManagedRelay, port: int, password: str) -> Headers:
    credential = base64.b64encode(f"bob:{password}".encode())
    head = [(name, value) for name, value in connect_udp(relay, port) if name != b"authorization"]
    return [*head, (b"proxy-authorization", b"Basic " + credential)]


async def test_basic_and_bearer_work_side_by_side_and_a_removed_user_is_out_at_the_reload(
    tmp_path: Path, connect: Connect, echo_port: int
) -> None:
    users = prepare_dev_state(tmp_path / "state").directory / "users.toml"
    users.write_text(f'[user.bob]\npassword_hash = "{hash_password("correct horse")}"\n')
    with managed_relay(tmp_path, policy=POLICY, config=CONFIG) as relay:
        client = await connect(relay)
        kept = await open_tunnel(client, relay, echo_port)
        stream_id, answer = await client.request(basic(relay, echo_port, "correct horse"))
        assert answer.status == 200
        await client.echo(stream_id, b"hello")
        _, refused = await client.request(basic(relay, echo_port, "wrong horse"))
        assert refused.status == 407
        users.write_text("")
        with relay.admin() as admin:
            assert admin.reload() == {"changed": ["keys"]}
        await client.finished(stream_id)
        _, refused = await client.request(basic(relay, echo_port, "correct horse"))
        assert refused.status == 407
        await client.echo(kept, b"still there")
        assert "horse" not in relay.log()

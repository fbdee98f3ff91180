"""Every method over every HTTP version, straight to a relay process."""

from collections.abc import Generator

import pytest

from masque_relay.client import HttpChoice
from tests.support.managed_relay import managed_relay
from tests.support.method_trials import TRIAL_CONFIG, TRIAL_POLICY, TRIALS, VERSIONS, WayIn

OWN = [name for name in TRIALS if name != "WebSocket"]


@pytest.fixture(scope="module")
def way(tmp_path_factory: pytest.TempPathFactory) -> Generator[WayIn]:
    directory = tmp_path_factory.mktemp("every-method")
    with managed_relay(directory, policy=TRIAL_POLICY, config=TRIAL_CONFIG) as relay:
        yield WayIn(url=relay.url, ca_file=relay.ca_file, token=relay.token)


@pytest.mark.interop("our own client", "{method}", "{http}")
@pytest.mark.parametrize("http", VERSIONS)
@pytest.mark.parametrize("method", OWN)
async def test_a_tunnel_works(way: WayIn, method: str, http: HttpChoice) -> None:
    await TRIALS[method](way, http)


@pytest.mark.interop("websockets", "WebSocket", "1.1")
async def test_a_websocket_of_a_foreign_library_opens(way: WayIn) -> None:
    await TRIALS["WebSocket"](way, HttpChoice.H1)

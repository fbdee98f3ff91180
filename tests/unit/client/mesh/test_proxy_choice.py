"""Which proxy is used: the option first, then the environment; passwords are never quoted."""

import pytest

from masque_relay.client.errors import AddressError
from masque_relay.client.mesh.proxy_choice import chosen_proxy

NAMES = ("HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "HTTP_PROXY")


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


def test_option_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://other:3128")
    assert chosen_proxy("http://proxy:8080", "relay.example") == "http://proxy:8080"
    assert chosen_proxy("none", "relay.example") is None


def test_https_proxy_comes_before_all_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    assert chosen_proxy(None, "relay.example") is None
    monkeypatch.setenv("http_proxy", "http://plain:1")
    assert chosen_proxy(None, "relay.example") is None, "the relay is https"
    monkeypatch.setenv("ALL_PROXY", "socks5h://all:1080")
    assert chosen_proxy(None, "relay.example") == "socks5h://all:1080"
    monkeypatch.setenv("https_proxy", "http://u:p@secure:3128")
    assert chosen_proxy(None, "relay.example") == "http://u:p@secure:3128"


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "a.localhost"])
def test_loopback_needs_no_proxy_of_the_environment(
    host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:1")
    assert chosen_proxy(None, host) is None
    assert chosen_proxy("http://proxy:1", host) == "http://proxy:1"


@pytest.mark.parametrize(
    ("no_proxy", "is_used"),
    [
        ("relay.example", False),
        ("example", False),
        (".example, other", False),
        ("*", False),
        ("lay.example", True),
        ("other", True),
        ("", True),
    ],
)
def test_no_proxy_names_hosts_and_domains(
    no_proxy: str, is_used: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:1")
    monkeypatch.setenv("NO_PROXY", no_proxy)
    assert (chosen_proxy(None, "relay.example") is not None) is is_used


@pytest.mark.parametrize(
    "url",
    [
        "ftp://u:hunter2@proxy",
        "http://u:hunter2@proxy:99999",
        "http://u:hunter2@proxy:port",
        "http://u:hunter2@",
        "http://u:hunter2@proxy/path",
        "hunter2",
        "http://u:hunter2@pro xy",
        "http://[u:hunter2@proxy",
    ],
)
def test_url_that_is_no_proxys_is_refused_and_not_quoted(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALL_PROXY", url)
    for option in (url, None):
        with pytest.raises(AddressError) as raised:
            chosen_proxy(option, "relay.example")
        assert "hunter2" not in f"{raised.value} {raised.value.hint}"
        assert raised.value.__cause__ is None
        assert ("--proxy" if option else "ALL_PROXY") in raised.value.message

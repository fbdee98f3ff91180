"""Owns the tests of what a person writes: relay URLs, templates, targets, LISTEN=TARGET."""

from ipaddress import ip_address

import pytest

from masque_relay.client.address import (
    ForwardSpec,
    RelayAddress,
    make_target,
    parse_listen,
    parse_target,
)
from masque_relay.client.errors import AddressError
from masque_relay.contract.address import Endpoint, Target


def endpoint(host: str, port: int) -> Endpoint:
    return Endpoint(address=ip_address(host), port=port)


class TestRelayUrl:
    """RFC 9298 section 2."""

    @pytest.mark.parametrize(
        ("text", "host", "port", "authority"),
        [
            ("https://relay.example", "relay.example", 443, "relay.example"),
            ("https://Relay.Example/", "relay.example", 443, "relay.example"),
            ("HTTPS://relay.example:4433", "relay.example", 4433, "relay.example:4433"),
            ("https://127.0.0.1:4433/", "127.0.0.1", 4433, "127.0.0.1:4433"),
            ("https://[::1]:4433", "::1", 4433, "[::1]:4433"),
            ("https://[2001:db8::1]", "2001:db8::1", 443, "[2001:db8::1]"),
        ],
    )
    def test_url_without_a_path_uses_the_default_template(
        self, text: str, host: str, port: int, authority: str
    ) -> None:
        relay = RelayAddress.parse(text)
        assert (relay.host, relay.port, relay.authority) == (host, port, authority)
        assert relay.path_for(make_target("example.org", 443)) == (
            "/.well-known/masque/udp/example.org/443/"
        )

    def test_url_may_be_a_whole_template(self) -> None:
        relay = RelayAddress.parse("https://r.test:1/u?h={target_host}&p={target_port}")
        assert relay.path_for(make_target("::1", 53)) == "/u?h=%3A%3A1&p=53"

    def test_a_template_option_replaces_the_default_one(self) -> None:
        relay = RelayAddress.parse("https://r.test", template="/x/{target_host}/{target_port}/")
        assert relay.path_for(make_target("a.test", 9)) == "/x/a.test/9/"

    @pytest.mark.clause("connect-udp-listen-15", "2", "MUST", "percent-encode * as the target")
    @pytest.mark.parametrize(
        ("url", "path"),
        [
            ("https://r.test", "/.well-known/masque/udp/%2A/%2A/"),
            ("https://r.test/u{?target_host,target_port}", "/u?target_host=%2A&target_port=%2A"),
        ],
    )
    def test_bind_path_has_no_target(self, url: str, path: str) -> None:
        assert RelayAddress.parse(url).bind_path == path

    def test_a_template_option_may_be_a_url_of_the_same_relay(self) -> None:
        whole = "https://r.test:443/x{?target_host,target_port}"
        relay = RelayAddress.parse("https://r.test", template=whole)
        assert relay.path_for(make_target("a.test", 9)) == "/x?target_host=a.test&target_port=9"

    def test_a_template_of_another_relay_is_refused(self) -> None:
        with pytest.raises(AddressError, match="another relay"):
            RelayAddress.parse(
                "https://r.test", template="https://s.test/{target_host}/{target_port}"
            )

    @pytest.mark.clause("RFC 9298", "3", "MUST", "percent-encode the colons of an IPv6 target_host")
    def test_ipv6_targets_are_percent_encoded(self) -> None:
        relay = RelayAddress.parse("https://r.test")
        assert relay.path_for(make_target("2001:db8::35", 53)) == (
            "/.well-known/masque/udp/2001%3Adb8%3A%3A35/53/"
        )

    @pytest.mark.clause(
        "RFC 9298", "2", "MUST", "refuse a template without scheme and authority at the client"
    )
    @pytest.mark.parametrize(
        "text",
        [
            "relay.example:443",
            "http://relay.example",
            "https://",
            "https://user@relay.example",
            "https://relay.example:0",
            "https://relay.example:70000",
            "https://relay.example:x",
            "https://relay.example/path",
            "https://relay.example/{target_host}/",
            "https://relay.example/{+target_host}/{target_port}",
            "https://{target_host}/{target_port}",
        ],
    )
    def test_what_is_no_relay_is_refused_with_a_hint(self, text: str) -> None:
        with pytest.raises(AddressError) as refused:
            RelayAddress.parse(text)
        assert refused.value.hint


class TestForwards:
    @pytest.mark.parametrize(
        ("text", "listen", "target"),
        [
            ("127.0.0.1:5353=9.9.9.9:53", endpoint("127.0.0.1", 5353), make_target("9.9.9.9", 53)),
            ("[::1]:5353=dns.example:53", endpoint("::1", 5353), make_target("dns.example", 53)),
            (":5353=[2620:fe::fe]:53", endpoint("127.0.0.1", 5353), make_target("2620:fe::fe", 53)),
            ("localhost:0=A.Test.:1", endpoint("127.0.0.1", 0), make_target("a.test", 1)),
            (
                "0.0.0.0:51820=v.test:51820",
                endpoint("0.0.0.0", 51820),
                make_target("v.test", 51820),
            ),
        ],
    )
    def test_listen_and_target_are_read(self, text: str, listen: Endpoint, target: Target) -> None:
        assert ForwardSpec.parse(text) == ForwardSpec(listen=listen, target=target)

    def test_a_forward_is_written_as_it_is_read(self) -> None:
        text = "[::1]:5353=[2620:fe::fe]:53"
        assert str(ForwardSpec.parse(text)) == text

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "127.0.0.1:5353",
            "5353=9.9.9.9:53",
            "127.0.0.1=9.9.9.9:53",
            "127.0.0.1:5353=9.9.9.9",
            "::1:5353=9.9.9.9:53",
            "eth0:5353=9.9.9.9:53",
            "127.0.0.1:70000=9.9.9.9:53",
            "127.0.0.1:+53=9.9.9.9:53",
            "127.0.0.1:5353=9.9.9.9:0",
            "127.0.0.1:5353=9.9.9.9:65536",
            "127.0.0.1:5353=2620:fe::fe:53",
            "127.0.0.1:5353=[fe80::1%eth0]:53",
            "127.0.0.1:5353=[::1]",
            "127.0.0.1:5353=:53",
            "127.0.0.1:5353=b\u00fccher.example:53",
        ],
    )
    def test_what_is_no_forward_is_refused_with_a_hint(self, text: str) -> None:
        with pytest.raises(AddressError) as refused:
            ForwardSpec.parse(text)
        assert refused.value.hint

    def test_the_hint_names_what_was_asked_for(self) -> None:
        with pytest.raises(AddressError) as target:
            parse_target("2130706433:80")
        with pytest.raises(AddressError) as listen:
            parse_listen("nonsense")
        assert "HOST:PORT" in str(target.value.hint)
        assert "ADDRESS:PORT" in str(listen.value.hint)

    def test_a_mapped_address_becomes_the_ipv4_address(self) -> None:
        assert parse_target("[::ffff:192.0.2.1]:53") == make_target("192.0.2.1", 53)

"""Tests of masque_relay.wire.uri_template."""

import time

import pytest

from masque_relay.wire.errors import WireError
from masque_relay.wire.uri_template import UriTemplate

TARGET = ("target_host", "target_port")
VALUES = {"target_host": "192.0.2.1", "target_port": "53"}


def match(template: str, path: bytes) -> dict[str, str] | None:
    found = UriTemplate.parse(template).match(path)
    return None if found is None else dict(found)


class TestParsing:
    """RFC 9298 section 2."""

    @pytest.mark.parametrize(
        ("template", "authority", "expanded"),
        [
            ("/udp/{target_host}/{target_port}", None, "/udp/192.0.2.1/53"),
            (
                "https://p.example:4443/masque?h={target_host}&p={target_port}",
                "p.example:4443",
                "https://p.example:4443/masque?h=192.0.2.1&p=53",
            ),
            (
                "HTTPS://p.example/m{?target_host,target_port}",
                "p.example",
                "https://p.example/m?target_host=192.0.2.1&target_port=53",
            ),
            (
                "/m?a=1{&target_host,target_port}",
                None,
                "/m?a=1&target_host=192.0.2.1&target_port=53",
            ),
            ("/m/{target_host,target_port}", None, "/m/192.0.2.1,53"),
            ("/{target_host}{?target_port}", None, "/192.0.2.1?target_port=53"),
        ],
    )
    def test_the_forms_that_masque_allows(
        self, template: str, authority: str | None, expanded: str
    ) -> None:
        parsed = UriTemplate.parse(template, required=TARGET)
        assert parsed.variables == TARGET
        assert parsed.authority == authority
        assert str(parsed) == template
        assert parsed.expand(VALUES) == expanded
        path = expanded.removeprefix(f"https://{authority}")
        assert parsed.expand_path(VALUES) == path
        assert parsed.match(path.encode()) == VALUES

    @pytest.mark.clause(
        "RFC 9298", "2", "MUST NOT", "use expansions other than simple and form-style"
    )
    @pytest.mark.parametrize("operator", ["+", "#", ".", "/", ";", "|", "!"])
    def test_the_operators_that_section_2_forbids_are_refused(self, operator: str) -> None:
        with pytest.raises(WireError, match="template has"):
            UriTemplate.parse(f"/udp/{{{operator}target_host}}/{{target_port}}/")

    @pytest.mark.clause(
        "RFC 9298",
        "2",
        "MUST",
        "refuse templates that are not printable ASCII with an absolute path",
    )
    @pytest.mark.parametrize(
        ("template", "fault"),
        [
            ("", "a path that starts with /"),
            ("udp/{a}", "a path that starts with /"),
            ("http://p.example/{a}", "a path that starts with /"),
            ("https://p.example", "a path that starts with /"),
            ("https://p.example{?a}", "a path that starts with /"),
            ("https://{a}/x", "a path that starts with /"),
            ("/{a}/{a}/", "occurs twice"),
            ("/{a", "template has"),
            ("/a}", "template has"),
            ("/{}", "template has"),
            ("/{a:3}", "template has"),
            ("/{a*}", "template has"),
            ("/{a,}", "template has"),
            ("/{a}#x", "template has"),
            ("/{a} ", "printable ASCII"),
            ("/ü/{a}", "printable ASCII"),
            ("/{a}{b}", "without a border"),
            ("/{a}x{b}", "nothing tells"),
            ("/{a}-{b}", "nothing tells"),
            ("/x{&a}", "begins a query"),
            ("/x?y=1{?a}", "begins a query"),
            ("/x{?a}{?b}", "begins a query"),
        ],
    )
    def test_bad_templates_are_refused(self, template: str, fault: str) -> None:
        with pytest.raises(WireError, match=fault):
            UriTemplate.parse(template)

    @pytest.mark.clause("RFC 9298", "2", "MUST", "have target_host and target_port in the template")
    def test_the_variables_that_the_caller_needs_have_to_be_there(self) -> None:
        with pytest.raises(WireError, match="lacks target_port"):
            UriTemplate.parse("/udp/{target_host}/", required=TARGET)


class TestMatching:
    """Matching happens before percent-decoding."""

    @pytest.mark.parametrize("template", ["/udp/{target_host}/{target_port}{}"])
    @pytest.mark.parametrize("template_slash", ["", "/"])
    @pytest.mark.parametrize("path_slash", ["", "/"])
    def test_the_last_slash_may_be_there_or_not(
        self, template: str, template_slash: str, path_slash: str
    ) -> None:
        template = template.replace("{}", template_slash)
        assert match(template, f"/udp/192.0.2.1/53{path_slash}".encode()) == VALUES
        assert match(template, f"/udp/192.0.2.1/53{path_slash}/".encode()) == (
            None if path_slash else VALUES
        )

    @pytest.mark.parametrize(
        ("template", "path"),
        [
            ("/m{?a}", b"/m?a=1"),
            ("/m{?a}", b"/m/?a=1"),
            ("/m/{?a}", b"/m?a=1"),
            ("/m?x=y&a={a}", b"/m/?x=y&a=1"),
            ("/m/{a}?x=y", b"/m/1/?x=y"),
            ("/{?a}", b"/?a=1"),
            ("/m/{a}/end", b"/m/1/end"),
            ("/m/{a}:x?y", b"/m/1:x?y"),
            ("/m?{a}=v", b"/m?1=v"),
            ("/m?x={a}&b={b}", b"/m?x=1&b="),
            ("/m?x={a}{&b}", b"/m?x=1&b="),
        ],
    )
    def test_queries_and_literals_after_variables(self, template: str, path: bytes) -> None:
        found = match(template, path)
        assert found is not None
        assert found["a"] == "1"

    @pytest.mark.parametrize(
        "path",
        [
            b"",
            b"/",
            b"/udp/",
            b"/udp/192.0.2.1",
            b"/udp/192.0.2.1/53/more",
            b"/udp/192.0.2.1/53/?x=y",
            b"/UDP/192.0.2.1/53/",
            b"/%75dp/192.0.2.1/53/",
            b"/udp/a/b/53/",
            b"/udp/192.0.2.1/53/#",
            b"/x/udp/192.0.2.1/53/",
            b"/udp/192.0.2.1/53/\n",
            b"/udp/192.0.2.1?/53/",
        ],
    )
    def test_another_path_does_not_match(self, path: bytes) -> None:
        assert match("/udp/{target_host}/{target_port}/", path) is None

    def test_the_root_template_needs_its_slash(self) -> None:
        assert match("/", b"/") == {}
        assert match("/", b"") is None

    @pytest.mark.parametrize(
        ("encoded", "host"),
        [
            (b"2001%3Adb8%3A%3A42", "2001:db8::42"),
            (b"2001%3adb8%3a%3a42", "2001:db8::42"),
            (b"2001:db8::42", "2001:db8::42"),
            (b"%2A", "*"),
            (b"*", "*"),
            (b"a%2Fb", "a/b"),
            (b"%2525", "%25"),
            (b"b%C3%BCcher", "bücher"),
            (b"a+b", "a+b"),
            (
                b"",
                "",
            ),  # for parse_host to refuse, so that it is a bad request and not a missing page
        ],
    )
    def test_values_are_decoded_after_the_match(self, encoded: bytes, host: str) -> None:
        found = match("/udp/{target_host}/{target_port}/", b"/udp/" + encoded + b"/53/")
        assert found == {"target_host": host, "target_port": "53"}

    @pytest.mark.parametrize(
        ("value", "fault"),
        [
            (b"%", "percent-encoding"),
            (b"%2", "percent-encoding"),
            (b"%zz", "percent-encoding"),
            (b"%u0041", "percent-encoding"),
            (b"%00", "control character"),
            (b"a%0Ab", "control character"),
            (b"%7F", "control character"),
            (b"a\x00b", "control character"),
            (b"%FF", "not UTF-8"),
            (b"%C0%AF", "not UTF-8"),
            (b"%ED%A0%80", "not UTF-8"),
            (b"\xff", "not UTF-8"),
        ],
    )
    def test_bad_values_are_refused(self, value: bytes, fault: str) -> None:
        with pytest.raises(WireError, match=fault):
            match("/udp/{target_host}/{target_port}/", b"/udp/" + value + b"/53/")

    def test_variables_cannot_be_changed(self) -> None:
        found = UriTemplate.parse("/{a}").match(b"/x")
        assert found is not None
        with pytest.raises(TypeError):
            found["a"] = "y"  # type: ignore[index]  # that it is refused is the point

    def test_a_long_hostile_path_is_refused_in_linear_time(self) -> None:
        template = UriTemplate.parse("/{a}:{b}:{c}/{d},{e}{?f,g}")
        begin = time.process_time()
        for filler in (b":", b",", b"x", b"%", b"&f="):
            assert template.match(b"/" + filler * 20_000 + b"\xff/") is None
        assert time.process_time() - begin < 1


class TestExpansion:
    """RFC 6570 section 3.2: everything but unreserved characters is encoded."""

    @pytest.mark.parametrize(
        ("value", "encoded"),
        [
            ("::1", "%3A%3A1"),
            ("*", "%2A"),
            ("a/b?c#d", "a%2Fb%3Fc%23d"),
            ("ü", "%C3%BC"),
            ("a-._~Z9", "a-._~Z9"),
            ("%", "%25"),
        ],
    )
    def test_reserved_characters_are_encoded(self, value: str, encoded: str) -> None:
        assert UriTemplate.parse("/{a}").expand({"a": value}) == f"/{encoded}"

    def test_a_missing_value_is_a_bug_of_the_caller(self) -> None:
        with pytest.raises(KeyError):
            UriTemplate.parse("/{a}").expand({})

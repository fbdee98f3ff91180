"""The ASGI scope of a request."""

import datetime as dt
import ssl

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.x509.oid import NameOID

from tests.support.http_fakes import CONNECT_UDP_HEAD, GET_HEAD, head_with
from tests.support.http_rig import ScriptedApp, serving


def certificate_der() -> bytes:
    key = ed25519.Ed25519PrivateKey.generate()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "alice")])
    now = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + dt.timedelta(days=1))
        .sign(key, None)
    )
    return certificate.public_bytes(serialization.Encoding.DER)


async def test_ordinary_request_has_the_usual_keys() -> None:
    app = ScriptedApp()
    async with serving(app) as rig:
        head = [*head_with(GET_HEAD, path=b"/a%2Fb/%C3%BC?q=%20"), (b"accept", b"*/*")]
        await rig.request(0, head)
        scope = app.calls[0].scope
        app.calls[0].finish()

    assert scope["type"] == "http"
    assert scope["http_version"] == "3"
    assert scope["method"] == "GET"
    assert scope["path"] == "/a/b/ü"
    assert scope["raw_path"] == b"/a%2Fb/%C3%BC"
    assert scope["query_string"] == b"q=%20"
    assert scope["headers"] == [(b"host", b"relay.example"), (b"accept", b"*/*")]
    assert scope["client"] == ("198.51.100.9", 40_000)
    assert scope["server"] == ("relay.example", 443)
    assert scope["scheme"] == "https"
    assert len(scope["state"]["request_id"]) == 16
    assert not {"http.connect", "http.datagram", "http.early"} & scope["extensions"].keys()


async def test_tunnel_request_has_the_tunnel_extensions() -> None:
    app = ScriptedApp()
    async with serving(app) as rig:
        await rig.open_tunnel()
        extensions = app.calls[0].scope["extensions"]
        app.calls[0].finish()

    assert app.calls[0].scope["method"] == "CONNECT"
    assert extensions["http.connect"] == {
        "protocol": "connect-udp",
        "form": "extended",
        "authority": "relay.example",
    }
    assert extensions["http.datagram"] == {"reliable": False, "max_size": 1_200}
    assert extensions["http.capsule"] == {}
    assert extensions["http.splice"] == {"kinds": ["flow", "udp", "tcp"]}
    assert extensions["http.abort"] == {}
    assert "http.early" not in extensions


async def test_client_without_datagrams_gets_reliable_ones() -> None:
    app = ScriptedApp()
    async with serving(app) as rig:
        rig.transport.datagrams_negotiated = False
        await rig.open_tunnel()
        extensions = app.calls[0].scope["extensions"]
        app.calls[0].finish()

    assert extensions["http.datagram"] == {"reliable": True, "max_size": 65_535}


async def test_protocol_that_implies_no_capsules_has_none() -> None:
    app = ScriptedApp()
    async with serving(app) as rig:
        await rig.open_tunnel(headers=head_with(CONNECT_UDP_HEAD, protocol=b"other"))
        extensions = app.calls[0].scope["extensions"]
        app.calls[0].finish()

    assert "http.capsule" not in extensions


async def test_tls_holds_certificate_and_exporter() -> None:
    der = certificate_der()
    app = ScriptedApp()
    async with serving(app) as rig:
        rig.quic.peer_certificate_chain = (der,)
        await rig.request(0, GET_HEAD)
        tls = app.calls[0].scope["extensions"]["tls"]
        app.calls[0].finish()

    assert [ssl.PEM_cert_to_DER_cert(pem) for pem in tls["client_cert_chain"]] == [der]
    assert tls["tls_version"] == 0x0304
    assert tls["server_name"] == "relay.example"
    assert tls["exporter"](b"EXPORTER-x", b"context", 24) == b"EXPORTER-xcontext".ljust(24, b"\0")


async def test_each_request_has_its_own_state() -> None:
    app = ScriptedApp()
    async with serving(app) as rig:
        await rig.request(0, GET_HEAD)
        await rig.request(4, GET_HEAD)
        first, second = (call.scope["state"] for call in app.calls)
        first["x"] = 1

        assert "x" not in second
        assert first["request_id"] != second["request_id"]
        for call in app.calls:
            call.finish()


async def test_odd_authority_leaves_the_server_unknown() -> None:
    app = ScriptedApp()
    async with serving(app) as rig:
        await rig.request(0, head_with(GET_HEAD, authority=b"relay.example:notaport"))

        assert app.calls[0].scope["server"] is None
        app.calls[0].finish()

"""Owns Envoy configurations: a CONNECT-UDP client, and a front that forwards CONNECT-UDP to us.

``python -m tests.support.envoy client|front ...`` prints one for use by hand.
"""

import argparse
import json
import socket
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.support.processes import executable, run_process
from tests.support.site_certificate import SiteCertificate

Listening = Mapping[str, tuple[str, int]] | None
_API = "type.googleapis.com/envoy.extensions"
MAX_PACKET_BYTES = (
    1400  # UDP payload; Envoy's own default of 1250 ends HTTP datagrams at 1220 bytes
)

FORWARDED_UPGRADES = (
    "CONNECT-UDP",
    "CONNECT",
    "websocket",
    "connect-ip",
    "connect-tcp",
    "ghostwire",
)
"""What the front lets through; others are refused with 403 by Envoy itself."""


def _h3_cluster(
    name: str, endpoint: tuple[str, int], *, server_name: str, ca_file: Path
) -> dict[str, Any]:
    """Return an upstream that is reached over HTTP/3 with extended CONNECT."""
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "5s",
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": f"{_API}.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {
                    "http3_protocol_options": {
                        "allow_extended_connect": True,
                        "quic_protocol_options": _quic_options(MAX_PACKET_BYTES),
                    }
                },
            }
        },
        "transport_socket": {
            "name": "envoy.transport_sockets.quic",
            "typed_config": {
                "@type": f"{_API}.transport_sockets.quic.v3.QuicUpstreamTransport",
                "upstream_tls_context": {
                    "sni": server_name,
                    "common_tls_context": {
                        "validation_context": {"trusted_ca": {"filename": str(ca_file)}}
                    },
                },
            },
        },
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _address(*endpoint)}}]}],
        },
    }


def _quic_options(max_packet_bytes: int) -> dict[str, int]:
    return {"max_packet_length": max_packet_bytes}


def _address(host: str, port: int, *, protocol: str = "TCP") -> dict[str, Any]:
    return {"socket_address": {"protocol": protocol, "address": host, "port_value": port}}


def client_configuration(
    *,
    proxy: tuple[str, int],
    proxy_ca_file: Path,
    target: tuple[str, int],
    headers: Sequence[tuple[str, str]] = (),
    server_name: str = "localhost",
    listen: tuple[str, int] = ("127.0.0.1", 0),
    max_packet_bytes: int = MAX_PACKET_BYTES,
    http: str = "3",
) -> dict[str, Any]:
    """A local UDP port, whose every client gets a tunnel to ``target`` through ``proxy``."""
    route = {"@type": f"{_API}.filters.udp.udp_proxy.v3.Route", "cluster": "relay"}
    udp_proxy = {
        "@type": f"{_API}.filters.udp.udp_proxy.v3.UdpProxyConfig",
        "stat_prefix": "tunnel",
        "matcher": {"on_no_match": {"action": {"name": "route", "typed_config": route}}},
        "session_filters": [
            {
                "name": "envoy.filters.udp.session.http_capsule",
                "typed_config": {
                    "@type": f"{_API}.filters.udp.udp_proxy.session.http_capsule.v3.FilterConfig"
                },
            }
        ],
        "tunneling_config": {
            "proxy_host": server_name,
            "target_host": target[0],
            "default_target_port": target[1],
            "retry_options": {"max_connect_attempts": 2},
            "buffer_options": {"max_buffered_datagrams": 1024, "max_buffered_bytes": 65536},
            "headers_to_add": [{"header": {"key": key, "value": value}} for key, value in headers],
        },
    }
    listener = {
        "name": "front",
        "address": _address(*listen, protocol="UDP"),
        "listener_filters": [
            {"name": "envoy.filters.udp_listener.udp_proxy", "typed_config": udp_proxy}
        ],
    }
    cluster = _cluster("relay", proxy, http, ca_file=proxy_ca_file, server_name=server_name)
    if http == "3":
        (options,) = cluster["typed_extension_protocol_options"].values()
        http3 = options["explicit_http_config"]["http3_protocol_options"]
        http3["quic_protocol_options"] = _quic_options(max_packet_bytes)
    return {"static_resources": {"listeners": [listener], "clusters": [cluster]}}


def tcp_client_configuration(
    *,
    proxy: tuple[str, int],
    proxy_ca_file: Path,
    target: tuple[str, int],
    headers: Sequence[tuple[str, str]] = (),
    http: str = "3",
) -> dict[str, Any]:
    """A local TCP port, whose every client gets a classic CONNECT to ``target``."""
    tcp_proxy = {
        "@type": f"{_API}.filters.network.tcp_proxy.v3.TcpProxy",
        "stat_prefix": "tunnel",
        "cluster": "relay",
        "tunneling_config": {
            "hostname": f"{target[0]}:{target[1]}",
            "headers_to_add": [{"header": {"key": key, "value": value}} for key, value in headers],
        },
    }
    listener = {
        "name": "front",
        "address": _address("127.0.0.1", 0),
        "filter_chains": [
            {"filters": [{"name": "envoy.filters.network.tcp_proxy", "typed_config": tcp_proxy}]}
        ],
    }
    cluster = _cluster("relay", proxy, http, ca_file=proxy_ca_file)
    return {"static_resources": {"listeners": [listener], "clusters": [cluster]}}


def front_configuration(
    *,
    site: SiteCertificate,
    origin: tuple[str, int],
    origin_ca_file: Path,
    origin_http: str = "3",
    listen: tuple[str, int] = ("127.0.0.1", 0),
    over: Sequence[str] = ("h3",),
) -> dict[str, Any]:
    """A front that ends the client's HTTP and forwards everything, tunnels included, to our origin.

    Args:
        site: the front's own certificate.
        origin: the relay.
        origin_ca_file: whom Envoy trusts there.
        origin_http: ``3``, ``2`` or ``1.1``: how it speaks to the relay.
        listen: where clients come in.
        over: names of the listeners: ``h3`` on UDP, ``tls`` for HTTP/2 and HTTP/1.1.
    """
    listeners = {"h3": _quic_listener, "tls": _tls_listener}
    return {
        "static_resources": {
            "listeners": [listeners[name](site, listen) for name in over],
            "clusters": [_cluster("origin", origin, origin_http, ca_file=origin_ca_file)],
        }
    }


def _cluster(
    name: str,
    endpoint: tuple[str, int],
    http: str,
    *,
    ca_file: Path,
    server_name: str = "localhost",
) -> dict[str, Any]:
    """Return an upstream that is reached by one HTTP version."""
    if http == "3":
        return _h3_cluster(name, endpoint, server_name=server_name, ca_file=ca_file)
    return _tcp_cluster(name, endpoint, http=http, ca_file=ca_file)


def _tcp_cluster(
    name: str, endpoint: tuple[str, int], *, http: str, ca_file: Path
) -> dict[str, Any]:
    """Return an upstream that is reached over HTTP/2 or HTTP/1.1 with TLS."""
    options: dict[str, Any] = (
        {"http2_protocol_options": {"allow_connect": True}}
        if http == "2"
        else {"http_protocol_options": {}}
    )
    alpn = "h2" if http == "2" else "http/1.1"
    cluster = _h3_cluster(name, endpoint, server_name="localhost", ca_file=ca_file)
    (protocol_options,) = cluster["typed_extension_protocol_options"].values()
    protocol_options["explicit_http_config"] = options
    cluster["transport_socket"] = {
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": f"{_API}.transport_sockets.tls.v3.UpstreamTlsContext",
            "sni": "localhost",
            "common_tls_context": {
                "alpn_protocols": [alpn],
                "validation_context": {"trusted_ca": {"filename": str(ca_file)}},
            },
        },
    }
    return cluster


def _connection_manager(codec: str) -> dict[str, Any]:
    """Return the filter that forwards every kind of tunnel and every request to ``origin``."""
    upgrades = [{"upgrade_type": name} for name in FORWARDED_UPGRADES]
    to_origin = {"cluster": "origin", "timeout": "0s", "upgrade_configs": upgrades}
    is_connect_udp = {"name": ":protocol", "string_match": {"exact": "connect-udp"}}
    return {
        "@type": f"{_API}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "front",
        "codec_type": codec,
        "http2_protocol_options": {"allow_connect": True},
        "http3_protocol_options": {
            "allow_extended_connect": True,
            "quic_protocol_options": _quic_options(MAX_PACKET_BYTES),
        },
        "upgrade_configs": upgrades,
        "normalize_path": False,
        "merge_slashes": False,
        "stream_idle_timeout": "0s",
        "use_remote_address": True,
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [
                        {"match": {"prefix": "/", "headers": [is_connect_udp]}, "route": to_origin},
                        {"match": {"connect_matcher": {}}, "route": to_origin},
                        {"match": {"prefix": "/"}, "route": to_origin},
                    ],
                }
            ]
        },
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": f"{_API}.filters.http.router.v3.Router"},
            }
        ],
    }


def _filter_chain(
    codec: str, transport: str, context_type: str, site: SiteCertificate
) -> dict[str, Any]:
    certificate = {
        "certificate_chain": {"filename": str(site.certificate_file)},
        "private_key": {"filename": str(site.key_file)},
    }
    tls: dict[str, Any] = {"common_tls_context": {"tls_certificates": [certificate]}}
    if transport == "quic":
        typed = {"@type": f"{_API}.{context_type}", "downstream_tls_context": tls}
    else:
        tls["common_tls_context"]["alpn_protocols"] = ["h2", "http/1.1"]
        typed = {"@type": f"{_API}.{context_type}", **tls}
    manager = {
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": _connection_manager(codec),
    }
    return {
        "filters": [manager],
        "transport_socket": {
            "name": f"envoy.transport_sockets.{transport}",
            "typed_config": typed,
        },
    }


def _quic_listener(site: SiteCertificate, listen: tuple[str, int]) -> dict[str, Any]:
    context = "transport_sockets.quic.v3.QuicDownstreamTransport"
    return {
        "name": "h3",
        "address": _address(*listen, protocol="UDP"),
        "udp_listener_config": {
            "quic_options": {"quic_protocol_options": _quic_options(MAX_PACKET_BYTES)},
            "downstream_socket_config": {"prefer_gro": True},
        },
        "filter_chains": [_filter_chain("HTTP3", "quic", context, site)],
    }


def _tls_listener(site: SiteCertificate, listen: tuple[str, int]) -> dict[str, Any]:
    context = "transport_sockets.tls.v3.DownstreamTlsContext"
    return {
        "name": "tls",
        "address": _address(*listen),
        "filter_chains": [_filter_chain("AUTO", "tls", context, site)],
    }


@contextmanager
def run_envoy(
    configuration: dict[str, Any],
    directory: Path,
    *,
    prefix: Sequence[str] = (),
    call: Callable[[Callable[[], Listening]], Listening] = lambda function: function(),
) -> Generator[tuple[str, int]]:
    """Run Envoy while the block runs; yield the address of its one listener.

    See :func:`run_envoy_listeners`.
    """
    with run_envoy_listeners(configuration, directory, prefix=prefix, call=call) as addresses:
        (address,) = addresses.values()
        yield address


@contextmanager
def run_envoy_listeners(
    configuration: dict[str, Any],
    directory: Path,
    *,
    prefix: Sequence[str] = (),
    call: Callable[[Callable[[], Listening]], Listening] = lambda function: function(),
) -> Generator[Mapping[str, tuple[str, int]]]:
    """Run Envoy while the block runs; yield the addresses of its listeners by their names.

    ``prefix`` (``ip netns exec NAME``) and ``call`` put it and the questions to it elsewhere.
    """
    program = executable("envoy")
    directory.mkdir(parents=True, exist_ok=True)
    configuration_file = directory / "envoy.json"
    admin_file = directory / "admin-address"
    configuration_file.write_text(
        json.dumps({"admin": {"address": _address("127.0.0.1", 0)}, **configuration}),
        encoding="utf-8",
    )
    listener_count = len(configuration["static_resources"]["listeners"])

    def listening() -> Listening:
        if not admin_file.exists():
            return None
        try:
            url = f"http://{admin_file.read_text().strip()}/listeners?format=json"
            answer = httpx.get(url, timeout=2, trust_env=False)
        except httpx.HTTPError:
            return None
        statuses = answer.json().get("listener_statuses", [])
        if len(statuses) < listener_count:
            return None
        addresses = {one["name"]: one["local_address"]["socket_address"] for one in statuses}
        return {name: (one["address"], one["port_value"]) for name, one in addresses.items()}

    command = [
        *prefix,
        program,
        "-c",
        str(configuration_file),
        "--concurrency",
        "1",
        "--use-dynamic-base-id",
    ]
    command += ["--admin-address-path", str(admin_file), "--log-level", "warning"]
    with run_process(
        command, log=directory / "envoy.log", ready=lambda: call(listening)
    ) as addresses:
        yield addresses


def exchange(address: tuple[str, int], payload: bytes, *, deadline_s: float) -> bytes | None:
    """Send one datagram from a new socket and return the answer, or None."""
    with socket.socket(type=socket.SOCK_DGRAM) as client:
        client.settimeout(deadline_s)
        client.connect(address)
        client.send(payload)
        try:
            return client.recv(65_536)
        except TimeoutError:
            return None


def _host_and_port(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port)


def main() -> None:
    """Print a configuration."""
    parser = argparse.ArgumentParser(prog="python -m tests.support.envoy", description=__doc__)
    kinds = parser.add_subparsers(dest="kind", required=True)
    client = kinds.add_parser("client")
    client.add_argument("--proxy", type=_host_and_port, required=True)
    client.add_argument("--target", type=_host_and_port, required=True)
    client.add_argument("--token-file", type=Path, required=True)
    front = kinds.add_parser("front")
    front.add_argument("--origin", type=_host_and_port, required=True)
    front.add_argument("--certificate", type=Path, required=True)
    front.add_argument("--key", type=Path, required=True)
    for kind in (client, front):
        kind.add_argument("--listen", type=_host_and_port, required=True)
        kind.add_argument("--ca-file", type=Path, required=True, help="that signed the relay's")
    options = parser.parse_args()
    if options.kind == "client":
        token = options.token_file.read_text(encoding="utf-8").strip()
        configuration = client_configuration(
            proxy=options.proxy,
            proxy_ca_file=options.ca_file,
            target=options.target,
            headers=[("proxy-authorization", f"Bearer {token}")],
            listen=options.listen,
        )
    else:
        configuration = front_configuration(
            site=SiteCertificate(
                ca_file=options.ca_file,
                certificate_file=options.certificate,
                key_file=options.key,
            ),
            origin=options.origin,
            origin_ca_file=options.ca_file,
            listen=options.listen,
        )
    json.dump(configuration, sys.stdout, indent=2)


if __name__ == "__main__":
    main()

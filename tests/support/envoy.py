"""Owns Envoy configurations: a CONNECT-UDP client, and a front that forwards CONNECT-UDP to us.

``python -m tests.support.envoy client|front ...`` prints one for use by hand.
"""

import argparse
import json
import socket
import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.support.processes import executable, run_process
from tests.support.site_certificate import SiteCertificate

Listening = tuple[str, int] | None
_API = "type.googleapis.com/envoy.extensions"
MAX_PACKET_BYTES = (
    1400  # UDP payload; Envoy's own default of 1250 ends HTTP datagrams at 1220 bytes
)


def _h3_cluster(
    name: str,
    endpoint: tuple[str, int],
    *,
    server_name: str,
    ca_file: Path,
    max_packet_bytes: int = MAX_PACKET_BYTES,
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
                        "quic_protocol_options": _quic_options(max_packet_bytes),
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
    cluster = _h3_cluster(
        "relay",
        proxy,
        server_name=server_name,
        ca_file=proxy_ca_file,
        max_packet_bytes=max_packet_bytes,
    )
    return {"static_resources": {"listeners": [listener], "clusters": [cluster]}}


def front_configuration(
    *,
    site: SiteCertificate,
    origin: tuple[str, int],
    origin_ca_file: Path,
    listen: tuple[str, int] = ("127.0.0.1", 0),
) -> dict[str, Any]:
    """An HTTP/3 listener that forwards everything, CONNECT-UDP included, to our HTTP/3 origin."""
    upgrades = [{"upgrade_type": "CONNECT-UDP"}]
    to_origin = {"cluster": "origin", "timeout": "0s", "upgrade_configs": upgrades}
    connection_manager = {
        "@type": f"{_API}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "front",
        "codec_type": "HTTP3",
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
    certificate = {
        "certificate_chain": {"filename": str(site.certificate_file)},
        "private_key": {"filename": str(site.key_file)},
    }
    listener = {
        "name": "front",
        "address": _address(*listen, protocol="UDP"),
        "udp_listener_config": {
            "quic_options": {"quic_protocol_options": _quic_options(MAX_PACKET_BYTES)},
            "downstream_socket_config": {"prefer_gro": True},
        },
        "filter_chains": [
            {
                "filters": [
                    {
                        "name": "envoy.filters.network.http_connection_manager",
                        "typed_config": connection_manager,
                    }
                ],
                "transport_socket": {
                    "name": "envoy.transport_sockets.quic",
                    "typed_config": {
                        "@type": f"{_API}.transport_sockets.quic.v3.QuicDownstreamTransport",
                        "downstream_tls_context": {
                            "common_tls_context": {"tls_certificates": [certificate]}
                        },
                    },
                },
            }
        ],
    }
    cluster = _h3_cluster("origin", origin, server_name="localhost", ca_file=origin_ca_file)
    return {"static_resources": {"listeners": [listener], "clusters": [cluster]}}


@contextmanager
def run_envoy(
    configuration: dict[str, Any],
    directory: Path,
    *,
    prefix: Sequence[str] = (),
    call: Callable[[Callable[[], Listening]], Listening] = lambda function: function(),
) -> Generator[tuple[str, int]]:
    """Run Envoy while the block runs; yield the address of its one listener.

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

    def listening() -> Listening:
        if not admin_file.exists():
            return None
        try:
            url = f"http://{admin_file.read_text().strip()}/listeners?format=json"
            answer = httpx.get(url, timeout=2, trust_env=False)
        except httpx.HTTPError:
            return None
        statuses = answer.json().get("listener_statuses", [])
        if not statuses:
            return None
        address = statuses[0]["local_address"]["socket_address"]
        return address["address"], address["port_value"]

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
    ) as address:
        yield address


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

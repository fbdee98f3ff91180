"""Owns the cells that no test can fill: what the peer has not, and the reason."""

from interop.marks import Cell

_H3_ONLY = "the library speaks HTTP/3 only"
CANNOT: dict[Cell, str] = {
    Cell(peer="masque-go", method="CONNECT-UDP", over="2"): _H3_ONLY,
    Cell(peer="masque-go", method="CONNECT-UDP", over="1.1"): _H3_ONLY,
    Cell(peer="connect-ip-go", method="CONNECT-IP", over="2"): _H3_ONLY,
    Cell(peer="connect-ip-go", method="CONNECT-IP", over="1.1"): _H3_ONLY,
    Cell(peer="Chromium", method="CONNECT", over="3"): (
        "its release build answers quic:// proxies with ERR_NO_SUPPORTED_PROXIES"
    ),
}

"""Owns NftTable: one nftables table that the kernel removes when this process is gone.

Through libnftables, the library that the program ``nft`` is made of: a table with ``flags owner``
lives as long as the socket of whoever made it, so that nothing is left behind by a crash, and no
other program can change it. The program itself would have to stay alive beside us for that.
"""

import ctypes
from typing import Any

from masque_relay.dataplane.device_error import DeviceError

_LIBRARY = "libnftables.so.1"


class NftTable:
    """A table of the family inet, in our own name; rules of others are never touched."""

    def __init__(self, name: str, body: str) -> None:
        """Make the table.

        Args:
            name: letters, digits, ``-`` and ``_``.
            body: its chains, in the language of nft.

        Raises:
            DeviceError: no nftables, not permitted, or another process owns the name.
        """
        self.name = name
        self._library = _load()
        self._context: int | None = self._library.nft_ctx_new(0)
        if self._context is None:
            raise DeviceError("libnftables cannot be used here")
        self._library.nft_ctx_buffer_output(self._context)
        self._library.nft_ctx_buffer_error(self._context)
        # What somebody else's table of this name may hold is gone: the name is ours.
        self._run(f"delete table inet {name}")
        refusal = self._run(f"table inet {name} {{ flags owner;\n{body}\n}}")
        if refusal is not None:
            self.close()
            raise _refused(name, refusal)

    def close(self) -> None:
        """Remove the table; idempotent."""
        if self._context is not None:
            self._run(f"delete table inet {self.name}")
            self._library.nft_ctx_free(self._context)
            self._context = None

    def _run(self, command: str) -> str | None:
        """Run a command; return what nft complains of, or None."""
        if self._library.nft_run_cmd_from_buffer(self._context, command.encode()) == 0:
            return None
        complaint: bytes | None = self._library.nft_ctx_get_error_buffer(self._context)
        return (complaint or b"").decode(errors="replace")


def _load() -> Any:  # noqa: ANN401 (a C library has no types)
    try:
        library = ctypes.CDLL(_LIBRARY)
    except OSError as error:
        raise DeviceError(
            f"no {_LIBRARY} on this system, which NAT needs",
            hint="apt install nftables; or masquerade = false where the pools are routed here",
        ) from error
    library.nft_ctx_new.restype = ctypes.c_void_p
    library.nft_ctx_new.argtypes = [ctypes.c_uint32]
    library.nft_ctx_get_error_buffer.restype = ctypes.c_char_p
    library.nft_run_cmd_from_buffer.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
    for name in (
        "nft_ctx_free",
        "nft_ctx_buffer_output",
        "nft_ctx_buffer_error",
        "nft_ctx_get_error_buffer",
    ):
        getattr(library, name).argtypes = [ctypes.c_void_p]
    return library


def _refused(name: str, complaint: str) -> DeviceError:
    reason = complaint.strip().splitlines()[0] if complaint.strip() else "no reason given"
    hint = None
    if "not permitted" in reason or "Permission denied" in reason:
        hint = "run as root or with CAP_NET_ADMIN; or another relay uses the same device name"
    elif "not supported" in reason:
        hint = "another process owns this table, or the kernel is older than 5.12"
    return DeviceError(f"cannot make the nftables table {name}: {reason}", hint=hint)

class HeaderKey:
    def __init__(self, key: bytes) -> None: ...

class PacketKey:
    def __init__(self, key: bytes, iv: bytes) -> None: ...

def open_many(
    header: HeaderKey,
    key: PacketKey,
    packets: list[bytes],
    start: int,
    cid: bytes,
    phase: int,
    expected: int,
) -> list[tuple[int, int, int, list[bytes] | bytes | None, int]]: ...
def seal_many(
    header: HeaderKey,
    key: PacketKey,
    plains: list[bytes],
    number: int,
    first_byte: int,
    cid: bytes,
) -> list[bytes]: ...

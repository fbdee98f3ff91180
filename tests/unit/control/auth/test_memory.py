"""What was checked is remembered for a while, and only so much of it."""

from masque_relay.control.auth.memory import ExpiringMemory


def test_an_entry_is_there_until_it_expires() -> None:
    memory: ExpiringMemory[str] = ExpiringMemory(10)
    memory.put(b"k", "v", expires_s=100.0)
    assert memory.get(b"k", 99.9) == "v"
    assert memory.get(b"k", 100.0) is None
    assert len(memory) == 0


def test_the_longest_unused_entry_goes_when_it_is_full() -> None:
    memory: ExpiringMemory[int] = ExpiringMemory(2)
    memory.put(b"a", 1, expires_s=100.0)
    memory.put(b"b", 2, expires_s=100.0)
    memory.get(b"a", 0.0)
    memory.put(b"c", 3, expires_s=100.0)
    assert [memory.get(key, 0.0) for key in (b"a", b"b", b"c")] == [1, None, 3]

"""fallbacks/derp/elsewhere.py: clients that are at one other server, or at several."""

from collections.abc import Sequence

from fallbacks.derp.elsewhere import Elsewhere

KEY, OTHER = bytes(32), bytes([1]) * 32


class Server:
    """A place that is nothing but itself."""

    def forward(self, source: bytes, key: bytes, packets: Sequence[bytes]) -> None:
        raise AssertionError("nothing is sent here")


def test_the_newest_presence_wins() -> None:
    elsewhere, old, new = Elsewhere(), Server(), Server()
    elsewhere.came(old, KEY)
    elsewhere.came(new, KEY)
    assert elsewhere.find(KEY) is new
    elsewhere.came(old, KEY)
    assert elsewhere.find(KEY) is old
    assert len(elsewhere) == 1


def test_who_has_gone_from_one_server_is_still_at_the_other() -> None:
    elsewhere, one, other = Elsewhere(), Server(), Server()
    elsewhere.came(one, KEY)
    elsewhere.came(other, KEY)
    elsewhere.went(one, KEY)
    assert elsewhere.find(KEY) is other
    elsewhere.came(one, KEY)
    elsewhere.went(one, KEY)
    assert elsewhere.find(KEY) is other
    elsewhere.went(other, KEY)
    elsewhere.went(other, KEY)
    assert elsewhere.find(KEY) is None
    assert len(elsewhere) == 0


def test_where_there_is_no_way_another_server_is_tried_until_the_next_tick() -> None:
    elsewhere, one, other = Elsewhere(), Server(), Server()
    elsewhere.came(one, KEY)
    elsewhere.came(other, KEY)
    elsewhere.absent(other, KEY)
    assert elsewhere.find(KEY) is one
    elsewhere.absent(one, KEY)
    assert elsewhere.find(KEY) is None
    elsewhere.tick()
    assert elsewhere.find(KEY) is other


def test_a_server_has_no_word_on_clients_that_it_never_announced() -> None:
    elsewhere, one, other = Elsewhere(), Server(), Server()
    elsewhere.came(one, KEY)
    elsewhere.went(other, KEY)
    elsewhere.absent(other, KEY)
    elsewhere.went(one, OTHER)
    assert elsewhere.find(KEY) is one


def test_who_comes_back_is_there_at_once() -> None:
    elsewhere, one = Elsewhere(), Server()
    elsewhere.came(one, KEY)
    elsewhere.absent(one, KEY)
    elsewhere.came(one, KEY)
    assert elsewhere.find(KEY) is one

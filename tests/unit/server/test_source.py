"""server/source.py: the same configuration again."""

from pathlib import Path

from masque_relay.config.dev_state import prepare_dev_state
from masque_relay.server.source import ConfigSource


def test_a_second_reading_sees_the_file_anew_and_the_options_as_before(tmp_path: Path) -> None:
    state = prepare_dev_state(tmp_path)
    source = ConfigSource(path=state.config_file, overrides={("listen", "h3"): "127.0.0.1:0"})
    first = source.load()
    state.config_file.write_text(
        state.config_file.read_text().replace("deadline_s = 5", "deadline_s = 7")
    )
    second = source.load()
    assert (first.drain.deadline_s, second.drain.deadline_s) == (5, 7)
    assert str(first.listen.h3) == str(second.listen.h3) == "127.0.0.1:0"

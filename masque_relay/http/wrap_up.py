"""Owns who is sent WRAP_UP when the relay drains (draft-ietf-httpbis-wrap-up)."""

import re
from collections.abc import Iterable, Sequence

_DOES_NOT_SURVIVE_IT = (b"curl/",)
"""User agents that end a tunnel over a capsule that they do not know."""


class WrapUpRule:
    """The identities whose clients understand WRAP_UP; by default none.

    RFC 9297 section 3.2 has every client skip capsules that it does not know, but not every client
    does.
    """

    def __init__(self, subjects: Sequence[str] = ()) -> None:
        """Take subjects, in which ``*`` stands for any run of characters."""
        patterns = [".*".join(map(re.escape, text.split("*"))) for text in subjects]
        self._pattern = re.compile("|".join(patterns) or "(?!)", re.DOTALL)

    def names(self, subject: str, fields: Iterable[tuple[bytes, bytes]]) -> bool:
        """Return whether a request of this identity is to be told."""
        if self._pattern.fullmatch(subject) is None:
            return False
        agents = [value.lower() for name, value in fields if name == b"user-agent"]
        return not any(agent.startswith(_DOES_NOT_SURVIVE_IT) for agent in agents)

"""Owns the option types of `ghostctl token`: durations."""

import re

import click

_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


class Duration(click.ParamType[float]):
    """A length of time such as 90s, 15m, 1h or 30d, in seconds."""

    name = "duration"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return the seconds, or fail as click does."""
        match = re.fullmatch(r"([0-9]{1,9})([smhd])", str(value))
        if match is None or int(match[1]) == 0:
            self.fail(f"{value!r} is not a duration such as 90s, 15m, 1h or 30d", param, ctx)
        return float(int(match[1]) * _UNITS_S[match[2]])

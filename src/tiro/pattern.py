"""Patterns that select data points: `%%Rack%ActivePower`.

A pattern is a regular expression in which `%` stands for the dot between two names and `%%` for any characters, dots included,
or none. It must fit the whole type path (`DataHall.Rack.ActivePower`) or the whole path
(`DataHall.data_hall_0.Rack.rack_1.Telemetry.ActivePower`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from tiro import path
from tiro.errors import InputError, Problem


class Pattern:
    """A compiled pattern; what it found out about a type path it remembers."""

    def __init__(self, text: str) -> None:
        self.text = text
        try:
            self._fits = re.compile(regular_expression(text)).fullmatch
        except re.error as error:
            hint = "`%` is the dot between names, `%%` is anything; the rest is a regular expression"
            raise InputError([Problem(None, text, f"this is no pattern: {error}", hint)]) from None
        self._types: dict[str, bool] = {}

    def fits_type(self, type_path: str) -> bool:
        """Whether all points of this type path are meant."""
        known = self._types.get(type_path)
        if known is None:
            known = self._types[type_path] = self._fits(type_path) is not None
        return known

    def fits(self, text: str) -> bool:
        """Whether the point with this path is meant."""
        return self.fits_type(path.type_path(text)) or self._fits(text) is not None

    def select(self, paths: Iterable[str]) -> Iterator[str]:
        """Those of the paths that are meant."""
        return filter(self.fits, paths)

    def __repr__(self) -> str:
        return f"Pattern({self.text!r})"


def regular_expression(text: str) -> str:
    """The regular expression that a pattern stands for, to be matched as a whole."""
    return text.replace("%%", ".*").replace("%", r"\.")

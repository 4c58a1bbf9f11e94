"""What no text that leaves this process may show: the secret values of its configuration, whoever quotes them.

The error of a plugin, or of a library below it, may hold a password. So these values are known here, and taken out of errors where they
come from a plugin, and once more where lines are logged. Records themselves are never touched.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable

_SHORTEST = 4  # what is shorter would be taken out of the middle of other words
_HIDDEN = "***"
_IN_URL = re.compile(r"://[^/\s@:]*:([^/\s@]+)@")
_known: set[str] = set()
_pattern: re.Pattern[str] | None = None


def keep_secret(values: Iterable[str]) -> None:
    """These are secrets from now on, also as JSON and `repr` write them."""
    global _pattern
    found = {value for value in values if len(value) >= _SHORTEST} - _known
    if found:
        _known.update(found)
        forms = {form for value in _known for form in (value, repr(value)[1:-1], json.dumps(value)[1:-1])}
        _pattern = re.compile("|".join(re.escape(form) for form in sorted(forms, key=len, reverse=True)))


def passwords(text: str) -> list[str]:
    """The passwords in the URLs of a text."""
    return _IN_URL.findall(text)


def concealed(text: str) -> str:
    """The text without secrets."""
    return _pattern.sub(_HIDDEN, text) if _pattern is not None else text


def conceal(error: BaseException) -> None:
    """Take secrets out of what an error and its causes say."""
    seen: set[int] = set()
    following: BaseException | None = error
    while following is not None and id(following) not in seen:
        seen.add(id(following))
        if _pattern is not None:
            following.args = tuple(concealed(part) if isinstance(part, str) else part for part in following.args)
            if isinstance(reason := getattr(following, "reason", None), str):
                following.reason = concealed(reason)  # type: ignore[attr-defined]
        following = following.__cause__ or following.__context__

"""What the server does not permit. It says so beside the answer, so a call that is refused looks like one that nobody answers."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable

from karez.bus.health import Health
from karez.bus.publishing import UnderWay
from karez.bus.pull import Pull
from karez.errors import BusRefused

_SUBJECT = re.compile(r'(publish|subscription) to "([^"]*)"', re.IGNORECASE)
_START = 60.0
_RECENT = 15.0


class Refusals:
    """The subjects that are refused now. At the start that is a mistake which ends the process, later it is a trouble that may pass."""

    def __init__(self, health: Health, place: str) -> None:
        self._health, self._place = health, place
        self._under_way: UnderWay | None = None
        self._opened = time.monotonic()
        self._api = ("", 0.0)
        self._fatal: BusRefused | None = None

    def open(self, under_way: UnderWay) -> None:
        """The connection is there."""
        self._under_way = under_way
        self._opened = time.monotonic()

    def add(self, words: str, pulls: Iterable[Pull]) -> None:
        """The server sent these words; who waits for what it refuses is told."""
        found = _SUBJECT.search(words)
        subject = found[2].lower() if found else ""
        worked = self._under_way is not None and subject in {known.lower() for known in self._under_way.worked}
        words += _advice(subject)
        if self._under_way is not None:
            self._under_way.refuse(subject, f"{self._place}: {words}")
        if subject.startswith("$js.api.") and ".msg.next." not in subject:
            self._api = (words, time.monotonic())
            return  # whoever asked says what that means
        what = f"refused {subject}"
        for pull in pulls:
            if (before := pull.refused(subject)) is not None:
                worked = worked or before
                what = f"refused {pull.name}"
        text = f"{self._place} does not permit what a role needs: {words}"
        is_new = what not in self._health
        self._health.begins(what, text)
        if is_new and found and found[1].lower() == "publish" and not worked and time.monotonic() - self._opened < _START:
            self._fatal = BusRefused(text)

    def of_api(self) -> str:
        """What the server refused of late when it was asked something."""
        words, when = self._api
        return words if time.monotonic() - when < _RECENT else ""

    def check(self, pulls: Iterable[Pull]) -> None:
        """End the troubles that have passed. Raises `BusRefused` if something was refused that never worked."""
        if self._fatal is not None:
            raise self._fatal
        working = {f"refused {pull.name}" for pull in pulls if not pull.is_blocked}
        if self._under_way is not None:
            working |= {f"refused {subject.lower()}" for subject in self._under_way.worked}
        for what in self._health.whats("refused "):
            if what in working:
                self._health.ends(what, f"{self._place} permits {what.removeprefix('refused ')} again")


def _advice(subject: str) -> str:
    if subject.startswith("$js.api.") and (".create." in subject or ".update." in subject):
        return "; something is missing there, or another one, that this user may not make: let the admin run `karez init -c ... -a ...`"
    if subject.startswith(("$js.api.direct.get.", "$js.api.stream.msg.get.", "$js.api.stream.list")):
        return "; what looks at all that is stored (karez dlq, gaps, prune) needs the credentials of `admin`"
    return "; `karez nats-config` writes the rights of each role"

"""`karez reload`: the running deployments read their configuration again; all of them, or, if it is wrong for one, none."""

from __future__ import annotations

import asyncio
from typing import Any

from karez.bus import Bus
from karez.bus.connecting import without_secrets
from karez.bus.topology import RELOAD
from karez.cli import complain
from karez.cli.connection import bus_at
from karez.cli.log import printable
from karez.cli.reloading import told
from karez.cli.view import ask_fleet
from karez.errors import BusUnreachable
from karez.records import as_json, from_json

_TEMPORARY = 75


def run(nats_addr: str, json: bool, wait: float = 60.0) -> int:
    """Ask, and print what changed; the exit code is that of the first refusal."""
    answers, silent = asyncio.run(_ask(nats_addr, wait))
    code = max((answer["code"] for answer in answers), default=0) or (_TEMPORARY if silent else 0)
    if json:
        print(as_json({"code": code, "answers": answers, "silent": silent}).decode())
    for answer in () if json else answers:
        lines = [printable(line) for line in told(answer)]
        complain(*lines) if answer["code"] else print("\n".join(lines))
    for process in silent:
        complain(f"karez: process {process} did not answer within {wait:g} s; look at its log")
    return code


async def _ask(address: str, wait: float) -> tuple[list[dict[str, Any]], list[str]]:
    """The answers of all deployments, and the processes that gave none; first all have to find the new configuration right."""
    bus = bus_at(address, "reload", is_stored=False)
    await bus.open()
    try:
        units = {str(snapshot.get("unit") or snapshot["id"]): str(snapshot["process"]) for snapshot in await ask_fleet(bus)}
        if not units:
            raise BusUnreachable(f"nobody on {without_secrets(address)} answers; is `karez deploy` running there?")
        checked = await _answers(bus, True, wait, len(units))
        if refusals := [answer for answer in checked if answer["code"]]:
            return refusals, []
        if silent := _silent(units, checked):
            return [], silent
        answers = await _answers(bus, False, wait, len(units))
        return answers, _silent(units, answers)
    finally:
        await bus.close()


def _silent(units: dict[str, str], answers: list[dict[str, Any]]) -> list[str]:
    heard = {answer["unit"] for answer in answers}
    return [process for unit, process in units.items() if unit not in heard]


async def _answers(bus: Bus, only_check: bool, wait: float, enough: int) -> list[dict[str, Any]]:
    found = await bus.ask(RELOAD, as_json({"check": only_check}), wait, enough)
    return [from_json(answer) for answer in found]

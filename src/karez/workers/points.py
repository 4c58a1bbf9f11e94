"""The points of one connector in this process: names those that stop or begin to answer, and tells how fresh each of them is."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Sequence

import msgspec

from karez.bus import Message
from karez.bus.topology import POINTS
from karez.freshness import Asked, Freshness, Page, Question, point_name
from karez.records import DEADLINE, Entity, Failed, Record, Task, as_json
from karez.results import Result
from karez.state import task_origin
from karez.workers import Worker
from karez.workers.letters import one_line

_REMEMBERED = 1000
_decode_question = msgspec.json.Decoder(Question).decode


class Points:
    """What `karez status --points` shows of one worker."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._fresh = Freshness(worker.node.name)
        self._id = uuid.uuid4().hex
        self.failing: dict[str, str] = {}

    def read(self, message: Message, task: Task, result: Result) -> None:
        """A task is done: some of its entities may have failed, or all."""
        if task.window is None:
            self._fresh.read(_asked(message), result.values if result.fetched else None, result.failed)
        self._mark(result.failed, task.entities)

    def unread(self, message: Message, task: Task, reason: str) -> None:
        """Nothing of a task could be read."""
        if task.window is None:
            self._fresh.failed(_asked(message), reason[:200])
        self._mark([Failed(entity, reason) for entity in task.entities], [])

    def expired(self, message: Message) -> None:
        """A task was too old when its turn came."""
        self._fresh.failed(_asked(message), "its turn came too late")

    def heard(self, records: Sequence[Record]) -> None:
        """Records came that nobody asked for."""
        self._fresh.heard(records)

    def _mark(self, failed: Sequence[Failed], entities: Sequence[Entity]) -> None:
        """Name the entities that stopped or began to answer: once each, not once a poll."""
        worker, failing = self._worker, self.failing
        worker.counts.failed += len(failed)
        if not failed and not failing:
            return
        now_failing = {point_name(item.entity): item.reason for item in failed}
        new = {name: reason for name, reason in now_failing.items() if name not in failing}
        for reason, number in Counter(new.values()).most_common(3):
            names = [name for name, why in new.items() if why == reason][:3]
            more = " …" if number > len(names) else ""
            worker.log.warning("%d entities cannot be read: %s%s: %s", number, one_line(", ".join(names)), more, one_line(reason))
            worker.note(f"{', '.join(names)}: {reason}")
        back = [name for name in map(point_name, entities) if name in failing and name not in now_failing]
        for name in back:
            del failing[name]
        if back:
            worker.log.warning("%d entities can be read again: %s", len(back), one_line(", ".join(back[:3])))
        for name, reason in now_failing.items():
            if len(failing) < _REMEMBERED:
                failing[name] = reason

    async def answer(self) -> None:
        """Tell how fresh the points are to whoever asks, a page at a time."""
        bus = self._worker.bus
        async for _, body, _, reply in bus.listen(POINTS):
            try:
                question = _decode_question(body or b"{}")
            except msgspec.MsgspecError as error:
                self._worker.log.debug("a question on %s that nobody understands: %s", POINTS, error)
                continue
            if reply and question.worker in ("", self._id) and question.connector in ("", self._worker.node.name):
                await bus.announce(reply, self._page(question.after))

    def _page(self, after: str) -> bytes:
        page = self._fresh.page(self._id, after)
        body = as_json(page)
        while len(body) > self._worker.bus.max_payload and len(page.points) > 1:
            page = self._fresh.page(self._id, after, len(page.points) // 2)
            body = as_json(page)
        return body if len(body) <= self._worker.bus.max_payload else as_json(Page(self._id))


def _asked(message: Message) -> Asked:
    dispatcher, slot, _ = task_origin(message.id)
    due = int(message.headers.get(DEADLINE) or 0)
    return Asked(message.body, dispatcher if slot else "", due / 1000, (due - slot) / 1000 if due and slot else 0.0)

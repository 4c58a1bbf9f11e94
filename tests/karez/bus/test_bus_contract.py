"""The contract of `karez.bus.Bus`, over both buses; a real nats-server for the one on NATS."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from karez.bus import Backlog, Bus, Durable, Retention, Stream
from karez.errors import BusError, BusFull, BusRefused

WORK = Stream("WORK", ("work.>",), Retention.WORK, 1024 * 1024)
NEWS = Stream("NEWS", ("news.>",), Retention.INTEREST, 1024 * 1024)
LOG = Stream("LOG", ("log.>",), Retention.LOG, 1024 * 1024)
READER = Durable("WORK", "reader", "work.a", ack_wait=1.0)


async def take(subscription, count, seconds=5.0):
    messages = []
    async with asyncio.timeout(seconds):
        while len(messages) < count:
            messages += await subscription.next(0.2)
    return messages


async def test_a_message_is_delivered_with_body_headers_and_id(bus: Bus) -> None:
    await bus.declare([WORK], [READER])
    subscription = await bus.subscribe(READER, 10)
    assert await bus.publish("work.a", b"body", "id1", {"Key": "value"}) is False
    (message,) = await take(subscription, 1)
    assert (message.subject, message.body, message.id) == ("work.a", b"body", "id1")
    assert message.headers["Key"] == "value"
    assert (message.deliveries, message.seq, message.pending) == (1, 1, 0)
    await subscription.close()


async def test_a_message_of_a_known_id_is_stored_once(bus: Bus) -> None:
    await bus.declare([WORK], [READER])
    assert await bus.publish("work.a", b"1", "same") is False
    assert await bus.publish("work.a", b"2", "same") is True
    state = await bus.stream_state("WORK")
    assert state is not None
    assert state.messages == 1


async def test_what_was_published_before_the_subscription_is_delivered(bus: Bus) -> None:
    await bus.declare([WORK], [READER])
    for number in range(5):
        await bus.publish("work.a", b"%d" % number, f"id{number}")
    subscription = await bus.subscribe(READER, 2)
    bodies = []
    for _ in range(5):
        messages = await subscription.next(1)
        bodies += [message.body for message in messages]
        await subscription.ack(messages)
        if len(bodies) == 5:
            break
    assert bodies == [b"0", b"1", b"2", b"3", b"4"]
    await subscription.close()


async def test_an_acknowledged_message_leaves_a_work_stream(bus: Bus) -> None:
    await bus.declare([WORK], [READER])
    subscription = await bus.subscribe(READER, 10)
    await bus.publish("work.a", b"x", "id")
    await subscription.ack(await take(subscription, 1))
    async with asyncio.timeout(40):
        while (await bus.stream_state("WORK")).messages:  # type: ignore[union-attr]
            await asyncio.sleep(0.005)
    assert await bus.backlog(READER) == Backlog(0, 0, 1)
    await subscription.close()


async def test_an_unacknowledged_message_comes_again(bus: Bus) -> None:
    await bus.declare([WORK], [READER])
    subscription = await bus.subscribe(READER, 10)
    await bus.publish("work.a", b"x", "id")
    await take(subscription, 1)
    (again,) = await take(subscription, 1)
    assert again.deliveries == 2
    await subscription.close()


async def test_progress_keeps_a_message_from_coming_again(bus: Bus) -> None:
    await bus.declare([WORK], [READER])
    subscription = await bus.subscribe(READER, 10)
    await bus.publish("work.a", b"x", "id")
    messages = await take(subscription, 1)
    for _ in range(5):
        assert await subscription.next(0.3) == []
        await subscription.in_progress(messages)
    await subscription.close()


async def test_a_message_that_was_given_back_comes_again_after_its_delay(bus: Bus) -> None:
    await bus.declare([WORK], [READER])
    subscription = await bus.subscribe(READER, 10)
    await bus.publish("work.a", b"x", "id")
    await subscription.nak(await take(subscription, 1), 0.3)
    assert await subscription.next(0.1) == []
    (again,) = await take(subscription, 1)
    assert again.deliveries == 2
    await subscription.close()


async def test_a_waiting_reader_can_be_interrupted(bus: Bus) -> None:
    await bus.declare([WORK], [READER])
    subscription = await bus.subscribe(READER, 10)
    waiting = asyncio.create_task(subscription.next(60))
    await asyncio.sleep(0)
    subscription.interrupt()
    assert await asyncio.wait_for(waiting, 40) == []
    await bus.publish("work.a", b"x", "id")
    assert len(await take(subscription, 1)) == 1
    await subscription.close()


async def test_what_there_is_not_is_said(bus: Bus) -> None:
    await bus.declare([WORK], [])
    with pytest.raises(BusRefused):
        await bus.backlog(READER)


async def test_a_message_that_is_too_large_is_refused_and_harms_nobody(bus: Bus) -> None:
    await bus.declare([WORK], [READER])
    with pytest.raises(BusRefused):
        await bus.publish("work.a", b"x" * (bus.max_payload + 1), "large")
    assert await bus.publish("work.a", b"x" * (bus.max_payload - 1000), "small") is False


async def test_headers_are_read_as_they_were_written(bus: Bus) -> None:
    await bus.declare([LOG], [])
    await bus.publish("log.x", b"body", "id", {"Text": "größer als 5 µm", "Empty": ""})
    (message,) = [message async for message in bus.read("LOG")]
    assert (message.headers["Text"], message.headers["Empty"], message.id) == ("größer als 5 µm", "", "id")


async def test_workers_of_one_durable_share_its_messages(bus: Bus) -> None:
    await bus.declare([WORK], [READER])
    first, second = await bus.subscribe(READER, 1), await bus.subscribe(READER, 1)
    for number in range(20):
        await bus.publish("work.a", b"%d" % number, f"id{number}")
    seen: list[bytes] = []

    async def work(subscription) -> int:
        mine = 0
        while len(seen) < 20:
            messages = await subscription.next(0.1)
            seen.extend(message.body for message in messages)
            mine += len(messages)
            await subscription.ack(messages)
            await asyncio.sleep(0)
        return mine

    async with asyncio.timeout(40):
        shares = await asyncio.gather(work(first), work(second))
    assert sorted(seen) == sorted(b"%d" % number for number in range(20))
    assert all(shares)
    await first.close()
    await second.close()


async def test_every_durable_of_an_interest_stream_gets_everything(bus: Bus) -> None:
    one, two = Durable("NEWS", "one", "news.>"), Durable("NEWS", "two", "news.>")
    await bus.declare([NEWS], [one, two])
    await bus.publish("news.x", b"n", "id")
    for durable in (one, two):
        subscription = await bus.subscribe(durable, 10)
        messages = await take(subscription, 1)
        await subscription.ack(messages)
        await subscription.close()
    async with asyncio.timeout(40):
        while (await bus.stream_state("NEWS")).messages:  # type: ignore[union-attr]
            await asyncio.sleep(0.005)


async def test_a_full_work_stream_refuses_and_takes_again_when_there_is_room(bus: Bus) -> None:
    small = Stream("WORK", ("work.>",), Retention.WORK, 16 * 1024)
    await bus.declare([small], [READER])
    body = b"x" * 4000
    for number in range(3):
        await bus.publish("work.a", body, f"id{number}")
    with pytest.raises(BusFull):
        await asyncio.gather(*(bus.publish("work.a", body, f"id{number}") for number in range(3, 6)))
    subscription = await bus.subscribe(READER, 10)
    await subscription.ack(await take(subscription, 3))
    async with asyncio.timeout(40):
        while True:
            with contextlib.suppress(BusFull):
                await bus.publish("work.a", body, "later")
                break
            await asyncio.sleep(0.01)
    await subscription.close()


async def test_a_stream_is_full_for_one_subject_and_open_for_another(bus: Bus) -> None:
    other = Durable("WORK", "other", "work.b")
    await bus.declare([Stream("WORK", ("work.>",), Retention.WORK, 1024 * 1024, max_per_subject=2)], [READER, other])
    await bus.publish("work.a", b"1", "1")
    await bus.publish("work.a", b"2", "2")
    with pytest.raises(BusFull):
        await bus.publish("work.a", b"3", "3")
    await bus.publish("work.b", b"3", "4")


async def test_a_full_log_forgets_its_oldest(bus: Bus) -> None:
    await bus.declare([Stream("LOG", ("log.>",), Retention.LOG, 16 * 1024, forgets=True)], [])
    for number in range(10):
        await bus.publish("log.x", b"x" * 4000, f"id{number}")
    state = await bus.stream_state("LOG")
    assert state is not None
    assert state.last_seq == 10
    assert state.first_seq > 1


async def test_a_subject_that_no_stream_takes_is_refused(bus: Bus) -> None:
    await bus.declare([WORK], [])
    with pytest.raises(BusError):
        await bus.publish("nowhere.x", b"x", "id")


async def test_many_messages_under_way_at_once_are_all_stored(bus: Bus) -> None:
    await bus.declare([WORK], [READER])
    under_way = [await bus.begin("work.a", b"x" * 100, f"id{number}") for number in range(2000)]
    assert not any([await future for future in under_way])
    state = await bus.stream_state("WORK")
    assert state is not None
    assert state.messages == 2000


async def test_a_stream_can_be_read_without_taking_and_messages_deleted(bus: Bus) -> None:
    await bus.declare([LOG], [])
    for number in range(3):
        await bus.publish(f"log.{number}", b"%d" % number, f"id{number}", {"N": str(number)})
    await bus.delete("LOG", 2)
    found = [(message.seq, message.subject, message.body, message.headers["N"]) async for message in bus.read("LOG")]
    assert found == [(1, "log.0", b"0", "0"), (3, "log.2", b"2", "2")]
    assert [message.seq async for message in bus.read("LOG", 2)] == [3]


async def test_a_long_stream_is_read_in_order_as_far_as_it_went_when_the_reading_began(bus: Bus) -> None:
    await bus.declare([LOG], [])
    for future in [await bus.begin("log.x", b"%d" % number, f"id{number}", {"Key": f"{number}"}) for number in range(1, 1501)]:
        await future
    for seq in (1, 700, 701, 1500):
        await bus.delete("LOG", seq)
    await bus.delete("LOG", 700)  # once more is no harm
    found = []
    async for message in bus.read("LOG"):
        found.append(message)
        if len(found) == 10:
            await bus.publish("log.x", b"later", "later")
    assert [message.seq for message in found] == [seq for seq in range(1, 1500) if seq not in (1, 700, 701)]
    assert all(message.body == b"%d" % message.seq for message in found)
    assert {tuple(sorted(message.headers)) for message in found} == {("Key", "Nats-Msg-Id")}
    assert [message.body async for message in bus.read("LOG", 1498)] == [b"1498", b"1499", b"later"]
    assert [message async for message in bus.read("LOG", 9999)] == []


async def test_listeners_hear_what_is_stored_and_what_is_announced(bus: Bus) -> None:
    await bus.declare([WORK], [READER])
    heard = []

    async def listen() -> None:
        async for subject, body, headers, _ in bus.listen("work.>"):
            heard.append((subject, body, headers.get("K")))

    task = asyncio.create_task(listen())
    async with asyncio.timeout(40):
        while len(heard) < 2:
            await bus.announce("work.z", b"hello")
            await bus.publish("work.a", b"x", f"id{len(heard)}", {"K": "v"})
            await asyncio.sleep(0.01)
    task.cancel()
    assert ("work.z", b"hello", None) in heard
    assert ("work.a", b"x", "v") in heard


async def test_all_listeners_can_answer_a_question(bus: Bus) -> None:
    ready = asyncio.Semaphore(0)

    async def answer(text: bytes) -> None:
        listening = bus.listen("question")
        ready.release()
        async for _, body, _, reply in listening:
            await bus.announce(reply, text + body)

    tasks = [asyncio.create_task(answer(text)) for text in (b"1", b"2")]
    for _ in tasks:
        await ready.acquire()
    async with asyncio.timeout(40):
        while sorted(await bus.ask("question", b"?", 0.2)) != [b"1?", b"2?"]:
            pass
    assert len(await bus.ask("question", b"?", 5, enough=1)) == 1
    assert await bus.ask("nobody", b"?", 0.1) == []
    for task in tasks:
        task.cancel()


async def test_a_value_is_written_only_over_the_revision_that_was_read(bus: Bus) -> None:
    await bus.declare_bucket("STORE")
    assert await bus.get("STORE", "key") is None
    first = await bus.put("STORE", "key", b"1", 0)
    assert first
    assert await bus.put("STORE", "key", b"other", 0) is None
    second = await bus.put("STORE", "key", b"2", first)
    assert second
    assert await bus.put("STORE", "key", b"other", first) is None
    value = await bus.get("STORE", "key")
    assert value is not None
    assert (value.data, value.revision) == (b"2", second)
    await bus.forget("STORE", "key")
    assert await bus.get("STORE", "key") is None
    assert await bus.put("STORE", "key", b"3", 0)


async def test_a_value_with_a_time_to_live_vanishes_unless_it_is_written_again(bus: Bus) -> None:
    await bus.declare_bucket("LEASES", 0.6)
    revision = await bus.put("LEASES", "key", b"me", 0)
    await asyncio.sleep(0.3)
    revision = await bus.put("LEASES", "key", b"me", revision)
    await asyncio.sleep(0.4)
    assert await bus.get("LEASES", "key") is not None
    async with asyncio.timeout(40):
        while await bus.get("LEASES", "key") is not None:
            await asyncio.sleep(0.01)


async def test_declaring_again_changes_nothing_that_is_stored(bus: Bus) -> None:
    await bus.declare([WORK], [READER])
    await bus.publish("work.a", b"x", "id")
    await bus.declare([Stream("WORK", ("work.>",), Retention.WORK, 2 * 1024 * 1024)], [READER])
    assert await bus.backlog(READER) == Backlog(1, 0)
    assert await bus.stream_state("NONE") is None


async def test_a_closed_bus_refuses(bus: Bus) -> None:
    await bus.declare([WORK], [READER])
    await bus.close()
    with pytest.raises((BusError, BusRefused)):
        await asyncio.wait_for(bus.publish("work.a", b"x", "id"), 5)
    await bus.close()
    assert not bus.is_connected


async def test_a_backlog_says_up_to_where_everything_is_done(bus: Bus) -> None:
    await bus.declare([WORK], [READER])
    for number in range(3):
        await bus.publish("work.a", b"%d" % number, f"id{number}")
    subscription = await bus.subscribe(READER, 10)
    messages = []
    while len(messages) < 3:
        messages += await subscription.next(1)
    await subscription.ack([messages[0], messages[2]])
    async with asyncio.timeout(20):
        while (backlog := await bus.backlog(READER)).unacked != 1:
            await asyncio.sleep(0.005)
    assert backlog.is_through(messages[0].seq)
    assert not backlog.is_through(messages[1].seq)
    assert not backlog.is_through(messages[2].seq)
    await subscription.ack([messages[1]])
    async with asyncio.timeout(20):
        while not (await bus.backlog(READER)).is_through(messages[2].seq):
            await asyncio.sleep(0.005)
    await subscription.close()


async def test_the_values_of_a_store_are_listed_by_the_beginning_of_their_keys(bus: Bus) -> None:
    assert await bus.values("NOWHERE", "") == {}
    await bus.declare_bucket("LISTED")
    for key in ("a.one", "a.two", "b.one", "a.gone"):
        await bus.put("LISTED", key, key.encode())
    await bus.put("LISTED", "a.one", b"newer")
    await bus.forget("LISTED", "a.gone")
    found = await bus.values("LISTED", "a.")
    assert {key: value.data for key, value in found.items()} == {"a.one": b"newer", "a.two": b"a.two"}
    one = await bus.get("LISTED", "a.one")
    assert found["a.one"] == one

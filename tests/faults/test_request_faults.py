"""Requests over HTTP and by `karez backfill`, while who asks, who answers and who works are killed (Q-7 … Q-11, K-H)."""

import json
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx2
import pytest

from karez.requests import Standings
from tests.faults.history import MINUTE, ROLES, History, Postgres, history, iso, minutes_ago, rows_of
from tests.faults.netproxy import Proxy

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

KEY = "a-static-key-of-this-test"
HEADERS = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
DAYS = 100 * 24 * 60 * MINUTE
ON_REQUEST = "max_window: 1m, schedule: false"


@contextmanager
def requested(folder: Path, postgres: Postgres, start: int, *, api: str = "", **options: str) -> Iterator[tuple[History, int]]:
    """A history that is read on request, and the port of its API, which stays the same."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    more = f"api: {{key: {KEY}, port: {port}, {api}}}"
    with history(folder, postgres, start, more=more, **{"dispatcher": ON_REQUEST, **options}) as found:
        yield found, port


def serves(found: History) -> None:
    """Start the API, and wait until it answers."""
    said = len(found.fleet.log("serve"))
    found.fleet.start("serve")
    found.fleet.until(lambda: "API: " in found.fleet.log("serve")[said:], "the API")


def asks(port: int, start: int, end: int, key: str = "", timeout: float = 60.0) -> httpx2.Response:
    """Ask for a span."""
    headers = {**HEADERS, **({"Idempotency-Key": key} if key else {})}
    with httpx2.Client(trust_env=False, timeout=timeout) as client:
        return client.post(f"http://127.0.0.1:{port}/api/v1/requests", headers=headers, content=wanted(start, end))


def wanted(start: int, end: int) -> bytes:
    return json.dumps({"dispatcher": "win", "start": iso(start), "end": iso(end)}).encode()


def the_request(found: History, is_so: Callable[[Standings], object], what: str) -> Standings:
    """Wait until the only request there is has come so far."""
    seen: list[Standings] = []

    def holds() -> object:
        requests = found.requests()
        assert len(requests) <= 1, "one request became several"
        seen[:] = requests
        return requests and is_so(requests[0])

    found.fleet.until(holds, what)
    return seen[0]


def is_done(one: Standings) -> bool:
    assert one.state not in ("failed", "cancelled"), one.standing
    return one.state == "done"


def finishes(found: History, windows: int) -> Standings:
    """The request ends well, and each row arrived once."""
    one = the_request(found, is_done, "the end of the request")
    assert (one.standing.done, one.standing.windows, one.standing.failed) == (windows, windows, 0)
    found.check()
    found.check_keys()
    return one


# -- the same request again


def test_q_7_k_h_3_a_request_whose_answer_was_lost_is_executed_once(tmp_path: Path, postgres: Postgres) -> None:
    start = minutes_ago(60)
    # with the times of production, so that what is slow is not taken for dead
    with requested(tmp_path, postgres, start, scale="") as (found, port):
        found.insert(rows_of(start, start + 20 * MINUTE))
        found.begin()
        serves(found)
        # K-H1: it dies when it has half of the body
        with socket.create_connection(("127.0.0.1", port)) as half:
            body = wanted(start, start + 20 * MINUTE)
            head = f"POST /api/v1/requests HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\nContent-Type: application/json\r\n"
            half.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body[:20])
            found.fleet.kill("serve")
            with suppress(ConnectionResetError):
                assert half.recv(100) == b"", "it said something before it had all of it"
        assert found.requests() == []
        # K-H3: it is stored, and the answer never comes
        serves(found)
        proxy = Proxy(port)
        try:
            proxy.one_way("back")
            with pytest.raises(httpx2.ReadTimeout):
                asks(proxy.port, start, start + 20 * MINUTE, "mine", timeout=3.0)
            first = the_request(found, lambda one: True, "the request")
            found.fleet.kill("serve")
            proxy.restore()
            serves(found)
            answer = asks(proxy.port, start, start + 20 * MINUTE, "mine")
        finally:
            proxy.close()
        assert (answer.status_code, answer.json()["id"]) == (200, first.request.id)
        finishes(found, 20)
        # and once more when it has ended
        assert asks(port, start, start + 20 * MINUTE, "mine").json()["state"] == "done"
        finishes(found, 20)
        assert max(Counter(found.table.asked()).values()) == 1
        assert len(found.table.asked()) == 20


# -- who works on it


@pytest.mark.parametrize("who", ["connector", "dispatcher", "aggregator"])
def test_q_9_another_one_finishes_a_request_whose_worker_was_killed(tmp_path: Path, postgres: Postgres, who: str) -> None:
    start = minutes_ago(60)
    with requested(tmp_path, postgres, start) as (found, port):
        found.insert(rows_of(start, start + 40 * MINUTE))
        found.sink.takes = 0.15
        found.begin(*ROLES, f"{who} 2")
        serves(found)
        assert asks(port, start, start + 40 * MINUTE).status_code == 202
        before = progress(port)
        found.fleet.until(lambda: progress(port) >= 3, "three windows")
        # the second one took over at the start, or stands by: either is killed in the middle
        found.fleet.kill(who)
        found.fleet.until(lambda: progress(port) >= 10, "ten windows")
        # so that it is not over before the second death
        found.sink.always("error")
        found.starts(who)
        found.fleet.are_up(who)
        assert progress(port) < 40
        found.sink.always("ok")
        found.fleet.kill(f"{who} 2")
        finishes(found, 40)
        assert before <= 3
        assert progress(port) == 40


def progress(port: int) -> int:
    """How many windows of the only request are done, as the API says."""
    with httpx2.Client(trust_env=False, timeout=60) as client:
        answer: dict[str, Any] = client.get(f"http://127.0.0.1:{port}/api/v1/requests", headers=HEADERS).json()
    (one,) = answer["requests"]
    return int(one["progress"]["done"])


def test_q_10_a_request_of_a_client_that_is_gone_is_done(tmp_path: Path, postgres: Postgres) -> None:
    start = minutes_ago(60)
    with requested(tmp_path, postgres, start) as (found, port):
        found.insert(rows_of(start, start + 10 * MINUTE))
        found.begin()
        serves(found)
        body = wanted(start, start + 10 * MINUTE)
        head = f"POST /api/v1/requests HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\nContent-Type: application/json\r\n"
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            client.recv(1)
        finishes(found, 10)


def test_q_11_a_flood_is_refused_and_the_schedule_goes_on(tmp_path: Path, postgres: Postgres) -> None:
    start = minutes_ago(0)
    options = {"interval": "1s", "dispatcher": "max_window: 1m", "api": "most_queued: 10, requests_per_minute: 300"}
    with requested(tmp_path, postgres, start, **options) as (found, port):
        found.begin()
        serves(found)
        found.reaches(start)
        with httpx2.Client(trust_env=False, timeout=60, headers=HEADERS) as client, ThreadPoolExecutor(8) as pool:
            url = f"http://127.0.0.1:{port}/api/v1/requests"
            # each of a hundred days: they are still at it when all of this is over
            answers = list(pool.map(lambda number: client.post(url, content=wanted(start - DAYS, start - number)), range(1000)))
        assert Counter(answer.status_code for answer in answers) == {202: 10, 429: 990}
        assert all(int(answer.headers["Retry-After"]) > 0 for answer in answers if answer.status_code == 429)
        mark = found.mark()
        assert mark is not None
        found.reaches(mark.until + 5000)
        requests = found.requests()
        assert {one.state for one in requests} <= {"queued", "running"}
        assert len(requests) == 10
        assert sum(one.standing.done for one in requests) > 0


# -- the bus, and everything


def test_a_backfill_survives_the_death_of_the_server_and_of_everything(tmp_path: Path, postgres: Postgres) -> None:
    start = minutes_ago(90)
    with requested(tmp_path, postgres, start) as (found, _):
        found.insert(rows_of(start, start + 60 * MINUTE))
        found.sink.takes = 0.1
        found.begin()
        found.fleet.are_up(*ROLES)
        arguments = ["backfill", "win", "--from", iso(start), "--to", iso(start + 60 * MINUTE), "--detach", "-a", found.fleet.address]
        command = [sys.executable, "-m", "karez", *arguments]
        assert subprocess.run(command, cwd=found.folder, capture_output=True, timeout=120).returncode == 0
        the_request(found, lambda one: one.standing.done >= 5, "five windows")
        found.fleet.end_server(signal.SIGKILL)
        found.fleet.start_server()
        one = the_request(found, lambda one: one.standing.done >= 20, "twenty windows")
        assert one.state == "running", "it was over before everything died"
        found.kills_everything()
        found.begin("aggregator", "connector", "dispatcher")
        finishes(found, 60)


def test_a_request_ends_although_its_windows_have_another_length_after_a_restart(tmp_path: Path, postgres: Postgres) -> None:
    start = minutes_ago(90)
    with requested(tmp_path, postgres, start) as (found, port):
        found.insert(rows_of(start, start + 60 * MINUTE))
        found.sink.takes = 0.1
        found.begin()
        serves(found)
        assert asks(port, start, start + 60 * MINUTE).status_code == 202
        the_request(found, lambda one: one.standing.done >= 5, "five windows")
        found.fleet.kill("dispatcher")
        (found.folder / "k.yaml").write_text(found.pipeline(dispatcher="max_window: 7m, schedule: false"))
        found.starts("dispatcher")
        one = the_request(found, is_done, "the end of the request")
        assert one.standing.done == one.standing.windows
        assert set(found.posted_rows()) == set(found.expected)
        assert Counter(found.table_rows()) == Counter(found.expected)

"""Write line protocol to InfluxDB 1 or 2, or to anything that takes their write requests (InfluxDB 3, VictoriaMetrics).

```yaml
aggregators:
  - type: influxdb
    category: telemetry
    url: http://influxdb:8086
    org: plant
    bucket: telemetry
    token: ${INFLUXDB_TOKEN:-}
```

For InfluxDB 1:

    - {type: influxdb, version: 1, url: "http://influxdb:8086", database: plant, username: karez, password: "${PASSWORD}"}

**Records** are lines, as the converter `influx_line_protocol` makes them, or points, as `influx_json_format` makes them
(`{"measurement", "tags", "fields", "time"}`; an integer `time` is in the unit of `precision`). Other records are rejected.

**Repeated batches.** InfluxDB keeps one value for a measurement, tag set, field and time, so a line that is written again
overwrites itself and a repeated batch adds nothing. A line without a time gets the server's at each write: such lines are
stored twice when they are repeated.

**Refused lines.** When the server refuses some of the lines (a line that it cannot parse, a field of another type, a time
outside of the retention), these go to the dead letters with the server's reason and the others are stored. They are found by
what the answer names, otherwise by halving the batch. VictoriaMetrics accepts any line with 204 and only logs what it cannot
read.

**Refused requests.** A wrong token, database or bucket (401, 403, 404), too many requests (429, 503, with `Retry-After`), an
error of the server or no answer: no record is to blame, so the batch waits and is written again. The same holds when the
server refuses record after record with a reason that does not speak of points.
"""

from __future__ import annotations

import gzip
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

import httpx2
from pydantic import Field, field_validator, model_validator

import karez
from karez import AggregatorConfig, Duration, NotConnected, Record, Records, Rejected, Secret

from ._lines import Refusal, line_of

_ROUNDS = 10
_MOST_IN_A_ROW = 20


class Config(AggregatorConfig):
    """Which server, which database or bucket, and how requests are made."""

    url: str = Field(default="http://localhost:8086", pattern=r"^https?://\S+$")
    """Address of the server, with the path before `/write` or `/api/v2/write` if it has one."""
    version: Literal[1, 2] = 2
    """Which write request is made: `/write` of InfluxDB 1, or `/api/v2/write` of InfluxDB 2."""
    org: str | None = None
    """Version 2: name or id of the organization."""
    bucket: str | None = None
    """Version 2: name or id of the bucket."""
    token: Secret | None = None
    """Version 2: API token that may write to the bucket."""
    database: str | None = None
    """Version 1: name of the database, which must be there."""
    retention_policy: str | None = None
    """Version 1: retention policy, unless it is the default one of the database."""
    username: str | None = None
    """Version 1: user that may write to the database."""
    password: Secret | None = None
    """Version 1: password of that user."""
    precision: Literal["ns", "us", "ms", "s"] = "ns"
    """Unit of the times in the lines."""
    max_lines: int = Field(default=5000, ge=1)
    """Most lines in one request."""
    max_bytes: int = Field(default=8_000_000, ge=1000)
    """Most bytes in one request, before compression."""
    compression: Literal["gzip", "none"] = "gzip"
    """How requests are compressed."""
    timeout: Annotated[Duration, Field(gt=0)] = 10.0
    """Longest time to wait for the connection, and for each part of the answer."""
    ca_file: Path | None = None
    """File with the certificates that are trusted for https, in place of those of the system."""

    @field_validator("url")
    @classmethod
    def _without_login(cls, url: str) -> str:
        if "@" in urlsplit(url).netloc:
            raise ValueError("a login in the URL would be printed with it; set `token`, or `username` and `password`")
        return url.rstrip("/")

    @model_validator(mode="after")
    def _knows_where(self) -> Config:
        if self.version == 2 and not self.bucket:
            raise ValueError("version 2 needs a `bucket` (InfluxDB 1: set `version: 1` and `database`)")
        if self.version == 1 and not self.database:
            raise ValueError("version 1 needs a `database`")
        strangers = ("database", "retention_policy", "username", "password") if self.version == 2 else ("org", "bucket", "token")
        if given := [name for name in strangers if getattr(self, name) is not None]:
            raise ValueError(f"{', '.join(f'`{name}`' for name in given)} does not belong to `version: {self.version}`")
        return self


@dataclass
class Culprit:
    """A record that was refused, and why."""

    place: int
    reason: str


class Aggregator(karez.Aggregator[Config]):
    _client: httpx2.AsyncClient | None = None
    _in_a_row = 0

    async def open(self) -> None:
        """Make the client; the first write connects it."""
        await self.close()
        config = self.config
        login = None
        if config.username is not None:
            login = httpx2.BasicAuth(config.username, config.password.get_secret_value() if config.password else "")
        headers = {"Content-Type": "text/plain; charset=utf-8"}
        if config.compression == "gzip":
            headers["Content-Encoding"] = "gzip"
        if config.token is not None and config.token.get_secret_value():
            headers["Authorization"] = f"Token {config.token.get_secret_value()}"
        trusted: ssl.SSLContext | bool = ssl.create_default_context(cafile=config.ca_file) if config.ca_file else True
        self._client = httpx2.AsyncClient(auth=login, headers=headers, verify=trusted, timeout=config.timeout, trust_env=False)

    async def close(self) -> None:
        """Close the connections."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    async def write(self, records: Records) -> None:
        """Send the batch in as few requests as its size allows; the lines that the server refuses are named."""
        lines: list[str] = []
        places: list[int] = []
        culprits: list[Culprit] = []
        for place, record in enumerate(records):
            try:
                lines.append(line_of(record, self.config.precision))
                places.append(place)
            except (ValueError, TypeError, AttributeError) as error:
                culprits.append(Culprit(place, str(error)))
        self._in_a_row = 0
        for start in range(0, len(lines), self.config.max_lines):
            part = slice(start, start + self.config.max_lines)
            culprits += await self._store(lines[part], places[part])
        if culprits:
            culprits.sort(key=lambda culprit: culprit.place)
            reasons = list(dict.fromkeys(culprit.reason for culprit in culprits))
            more = f"; and {len(reasons) - 5} more reasons" if len(reasons) > 5 else ""
            refused: list[Record] = [records[culprit.place] for culprit in culprits]
            raise Rejected("; ".join(reasons[:5]) + more, refused)

    async def _store(self, lines: Sequence[str], places: Sequence[int]) -> list[Culprit]:
        """Store these lines; returns those that were refused."""
        body = "\n".join(lines).encode("utf-8", "surrogatepass")
        refusal: Refusal | None = None
        if len(body) <= self.config.max_bytes:
            status, refusal = await self._post(body)
            if refusal is None:
                return []
            if status != 413:
                return await self._isolate(lines, places, refusal)
        if len(lines) == 1:
            limit = refusal.summary if refusal else f"`max_bytes` is {self.config.max_bytes}"
            return [Culprit(places[0], f"a line of {len(body)} bytes is too large for one request: {limit}")]
        half = len(lines) // 2
        return await self._store(lines[:half], places[:half]) + await self._store(lines[half:], places[half:])

    async def _isolate(self, lines: Sequence[str], places: Sequence[int], refusal: Refusal) -> list[Culprit]:
        """The culprits among lines that were refused together: by what the answer names, otherwise by halving."""
        culprits: list[Culprit] = []
        for _ in range(_ROUNDS):
            named = refusal.named(lines)
            if not named:
                break
            culprits += [Culprit(places[index], reason) for index, reason in named.items()]
            kept = [index for index in range(len(lines)) if index not in named]
            lines, places = [lines[index] for index in kept], [places[index] for index in kept]
            if not lines:
                return culprits
            _, again = await self._post("\n".join(lines).encode("utf-8", "surrogatepass"))
            if again is None:
                return culprits
            refusal = again
        return culprits + await self._halve(lines, places, refusal)

    async def _halve(self, lines: Sequence[str], places: Sequence[int], refusal: Refusal) -> list[Culprit]:
        if len(lines) == 1 or refusal.takes_all(lines):
            self._blame(refusal)
            return [Culprit(place, refusal.summary) for place in places]
        suspected = refusal.suspected(lines)
        if 0 < len(suspected) < len(lines):
            first = [index for index in range(len(lines)) if index not in suspected]
            rest = sorted(suspected)
        else:
            half = len(lines) // 2
            first, rest = list(range(half)), list(range(half, len(lines)))
        culprits = await self._store([lines[index] for index in first], [places[index] for index in first])
        lines, places = [lines[index] for index in rest], [places[index] for index in rest]
        if culprits or suspected or len(rest) == 1:
            return culprits + await self._store(lines, places)
        # the first part was fine, so this one need not be asked again as a whole
        return await self._halve(lines, places, refusal)

    def _blame(self, refusal: Refusal) -> None:
        if refusal.is_about_points:
            return
        self._in_a_row += 1
        if self._in_a_row > _MOST_IN_A_ROW:
            many = f"{self.config.url} refused {self._in_a_row} records in a row"
            raise NotConnected(f"{many}, so the fault is not theirs and all are kept: {refusal.summary}")

    async def _post(self, body: bytes) -> tuple[int, Refusal | None]:
        if self._client is None:
            raise NotConnected("the client is not open")
        config = self.config
        if config.version == 2:
            path, query = "/api/v2/write", {"bucket": config.bucket, "org": config.org, "precision": config.precision}
        else:
            unit = {"ns": "n", "us": "u"}.get(config.precision, config.precision)
            path, query = "/write", {"db": config.database, "rp": config.retention_policy, "precision": unit}
        content = gzip.compress(body, compresslevel=1, mtime=0) if config.compression == "gzip" else body
        try:
            answer = await self._client.post(
                config.url + path, params={key: value for key, value in query.items() if value is not None}, content=content
            )
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:
            raise NotConnected(f"{config.url}: {type(error).__name__} {error}".rstrip()) from error
        if answer.is_success:
            self._in_a_row = 0
            return answer.status_code, None
        refusal = Refusal.read(answer.content)
        if answer.status_code in (400, 413, 422):
            return answer.status_code, refusal
        raise NotConnected(f"{config.url}{path} answers {answer.status_code}: {refusal.summary}{self._advice(answer.status_code)}",
                           retry_after=_retry_after(answer))  # fmt: skip

    def _advice(self, status: int) -> str:
        if status in (401, 403):
            return "; check " + ("`token` and its permission to write" if self.config.version == 2 else "`username` and `password`")
        if status == 404:
            return "; check `url`, " + ("`org` and `bucket`" if self.config.version == 2 else "`database` (it is not created)")
        return "; check `url`, it leads somewhere else" if 300 <= status < 400 else ""


def _retry_after(answer: httpx2.Response) -> float | None:
    given = answer.headers.get("Retry-After")
    if not given:
        return None
    try:
        return max(0.0, float(given))
    except ValueError:
        pass
    try:
        moment = parsedate_to_datetime(given)
    except ValueError:
        return None
    return max(0.0, (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() - datetime.now(UTC).timestamp())

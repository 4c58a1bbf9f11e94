"""Post records to a web service: one request a record, or a batch as a JSON array or as lines.

```yaml
aggregators:
  - type: http
    category: telemetry
    url: https://example.org/api/data
    token: ${POST_DATA_API_KEY:-}
    json: false
```

**Body.** `record`: each record is the body of a request of its own. `array`: a JSON array of all records of a batch. `lines`: one record a
line. With `json: false` a record is posted as it lies on the bus, byte for byte and without being decoded: set it unless another option
needs more. A text is posted as it is (set `content_type` for it), in an array as a JSON text. Metadata (`_karez`) is never posted.

**Repeated requests.** A record comes again when it is not known whether it was stored: the far side broke off before it answered, or
Karez was ended. Each request carries the id of its record in `Idempotency-Key`, the same whenever the record comes again, so that a
service that knows this header stores it once; one that answers a known key with an error of its own (409) is told by `accepted`. After
a fault in the middle of a write, records that were answered are not posted again by this process. The key of an `array` or of `lines` is
made of the ids of all of its records; a batch may be cut otherwise when it comes again, so use `record` where nothing may be stored twice.

**Refused records.** 400, 409, 413, 422 and all statuses that are not named below say that the record is at fault: it goes to the dead
letters with the status and the beginning of the answer, all others are stored. An array or lines are halved until the culprit is alone;
that takes for granted that the service stores nothing of a request that it refuses.

**Refused requests.** No record is to blame for a wrong token (401, 403), a wrong address (404, 405, 410, a redirect), a wrong form of
requests (406, 407, 411, 415, 417, 421, 426, 431), too many requests (408, 425, 429, with `Retry-After`), an error of the server (5xx) or
no answer: all records are kept and posted again until the far side takes them. Where such a status does speak of the record, list it in
`rejected`.

**Addresses.** Redirects are not followed, proxies and logins of the environment (`HTTP_PROXY`, `.netrc`) are not used.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
from collections.abc import Iterable
from hashlib import blake2b
from typing import Annotated, Literal
from urllib.parse import urlsplit

import msgspec
from pydantic import Field, FilePath, field_validator, model_validator

import karez
from karez import META, AggregatorConfig, Duration, Record, Records, Rejected, Secret

from ._endpoint import Endpoint

_encoder = msgspec.json.Encoder()
_META = f'"{META}"'
_HEADER_NAME = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_MOST_REMEMBERED = 100_000
Status = Annotated[int, Field(ge=200, le=599)]


class Config(AggregatorConfig):
    """Where records are posted to, in what form, and what the answers mean."""

    url: str
    """Address that records are posted to."""
    method: Literal["POST", "PUT", "PATCH"] = "POST"
    """Method of the requests."""
    token: Secret | None = None
    """Token that is sent as `Authorization: Bearer`."""
    username: str | None = None
    """User, where the service wants user and password."""
    password: Secret | None = None
    """Password of that user."""
    headers: dict[str, Secret] = {}
    """Other headers of the requests; their values are never printed."""
    body: Literal["record", "array", "lines"] = "record"
    """What a request holds: one record, or a batch as a JSON array, or as one record a line."""
    content_type: str | None = None
    """Content type of the requests; unless set `application/json`, and `application/x-ndjson` for lines."""
    compression: Literal["none", "gzip"] = "none"
    """How requests are compressed; ask whether the service reads it."""
    batch_records: int = Field(default=100, ge=1, le=1_000_000)
    """Most records in one write; they may be large."""
    max_bytes: int = Field(default=8_000_000, ge=1000)
    """Most bytes in one array or lines, before compression; a larger record is posted alone."""
    concurrency: int = Field(default=4, ge=1, le=256)
    """Requests of one write that are under way at the same time; with `ordered`, and with arrays and lines, always one."""
    timeout: Annotated[Duration, Field(gt=0)] = 30.0
    """Longest time to wait for the connection, for the body to be taken, and for each part of the answer."""
    idempotency_header: str | None = Field(default="Idempotency-Key", pattern=f"^{_HEADER_NAME}$")
    """Header that carries the id of what is posted, the same when it comes again; `~` sends none."""
    accepted: list[Status] = []
    """Statuses, beside 200 to 299, that say that it is stored."""
    rejected: list[Status] = []
    """Statuses that say that the record will never be accepted, where they would otherwise not be held against it."""
    verify: bool = True
    """Whether the certificate of an https server is looked at."""
    ca_file: FilePath | None = None
    """File with the certificates that are trusted for https, in place of those of the system."""
    cert_file: FilePath | None = None
    """File with the certificate, and the key if it is there as well, that we show to the server."""
    key_file: FilePath | None = None
    """File with the key of that certificate."""
    allowed_hosts: list[str] = []
    """Hosts that may be posted to although they are addresses of a machine's own services (169.254.x.x and the like)."""

    @field_validator("url")
    @classmethod
    def _is_http(cls, value: str) -> str:
        try:
            url = urlsplit(value)
            host, _ = url.hostname, url.port
        except ValueError as error:
            raise ValueError(f"this is no URL: {error}") from None
        if url.scheme not in ("http", "https") or not host or re.search(r"\s", value):
            raise ValueError("this is no address of a web service; write it as in `https://example.org/api/data`")
        if "@" in url.netloc:
            raise ValueError("a login in the URL would be printed with it; set `token`, or `username` and `password`")
        if url.fragment:
            raise ValueError("a server never sees what stands after `#`; leave it out")
        return value

    @field_validator("headers")
    @classmethod
    def _can_be_sent(cls, headers: dict[str, Secret]) -> dict[str, Secret]:
        for name, value in headers.items():
            if not re.fullmatch(_HEADER_NAME, name):
                raise ValueError(f"{name!r} is no name of a header")
            if name.lower() in ("content-type", "content-length", "content-encoding", "transfer-encoding", "host"):
                raise ValueError(f"`{name}` cannot be set here; there are `content_type`, `compression` and `url`")
            _header_value(f"the value of `{name}`", value.get_secret_value())
        return headers

    @model_validator(mode="after")
    def _fits_together(self) -> Config:
        names = {name.lower() for name in self.headers}
        if sum((self.token is not None, self.username is not None, "authorization" in names)) > 1:
            raise ValueError("`token`, `username` and a header `Authorization` exclude each other; keep one of them")
        if (self.username is None) != (self.password is None):
            raise ValueError("`username` and `password` belong together")
        if self.idempotency_header and self.idempotency_header.lower() in {*names, "authorization", "content-type", "host"}:
            raise ValueError(f"`idempotency_header`: {self.idempotency_header} is already used for something else")
        if self.key_file is not None and self.cert_file is None:
            raise ValueError("`key_file` needs `cert_file`")
        _header_value("`token`", self.token.get_secret_value() if self.token else "")
        _header_value("`content_type`", self.content_type or "")
        host = urlsplit(self.url).hostname or ""
        if _is_internal(host) and host not in self.allowed_hosts:
            raise ValueError(f"`url`: {host} is an address of a machine's own services; if it is meant, add it to `allowed_hosts`")
        return self

    def warnings(self) -> Iterable[tuple[str, str]]:
        """What shows secrets to others."""
        if not self.verify and self.url.startswith("https"):
            yield "verify", "`verify: false` lets anybody pretend to be the server; set `ca_file` to the file of its CA instead"


class Aggregator(karez.Aggregator[Config]):
    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._endpoint = Endpoint(config)
        self._answered: dict[str, None] = {}  # ids of writes that broke off; they come again

    async def open(self) -> None:
        """Make the client; the first write connects it."""
        await self._endpoint.open()

    async def close(self) -> None:
        """Close the connections."""
        await self._endpoint.close()

    async def write(self, records: Records) -> None:
        """Post what was not answered before; what the far side refuses is named."""
        places = [place for place, key in enumerate(records.ids) if key not in self._answered]
        reasons = await (self._post_each if self.config.body == "record" else self._post_batches)(records, places)
        for key in records.ids:
            self._answered.pop(key, None)
        if reasons:
            known = list(dict.fromkeys(reasons[place] for place in sorted(reasons)))
            more = f"; and {len(known) - 5} more reasons" if len(known) > 5 else ""
            raise Rejected("; ".join(known[:5]) + more, [records[place] for place in sorted(reasons)])

    async def _post_each(self, records: Records, places: list[int]) -> dict[int, str]:
        """One request a record; why which of them were refused. After a fault those under way end, and no more are begun."""
        reasons: dict[int, str] = {}
        faults: list[Exception] = []
        waiting = iter(places)

        async def work() -> None:
            for place in waiting:
                try:
                    if reason := await self._post_one(records, place):
                        reasons[place] = reason
                except Exception as error:
                    faults.append(error)
                if faults:
                    return

        at_once = 1 if self.config.ordered else min(self.config.concurrency, len(places))
        if at_once < 2:
            await work()
        else:
            async with asyncio.TaskGroup() as group:
                for _ in range(at_once):
                    group.create_task(work())
        if faults:
            raise max(faults, key=lambda error: getattr(error, "retry_after", None) or 0.0)
        return reasons

    async def _post_one(self, records: Records, place: int) -> str:
        try:
            content = self._content(records[place])
        except _UNWRITABLE as error:
            return _cannot_be_written(error)
        reason = await self._endpoint.post(content, _key(records.ids[place : place + 1], content))
        if not reason:
            self._remember(records.ids[place : place + 1])
        return reason

    async def _post_batches(self, records: Records, places: list[int]) -> dict[int, str]:
        """As few requests as `max_bytes` allows; why which records were refused."""
        reasons: dict[int, str] = {}
        contents: dict[int, bytes] = {}
        size = 0
        for place in places:
            try:
                content = self._content(records[place])
            except _UNWRITABLE as error:
                reasons[place] = _cannot_be_written(error)
                continue
            if contents and size + len(content) >= self.config.max_bytes:
                reasons |= await self._post_batch(records, contents)
                contents, size = {}, 0
            contents[place] = content
            size += len(content) + 1
        return reasons | await self._post_batch(records, contents) if contents else reasons

    async def _post_batch(self, records: Records, contents: dict[int, bytes]) -> dict[int, str]:
        parts = contents.values()
        body = b"[%b]" % b",".join(parts) if self.config.body == "array" else b"".join([part + b"\n" for part in parts])
        ids = [records.ids[place] for place in contents]
        reason = await self._endpoint.post(body, _key(ids, body))
        if not reason:
            self._remember(ids)
            return {}
        if len(contents) == 1:
            return dict.fromkeys(contents, reason)
        del body  # it may be large, and the halves are as large once more
        items, half = list(contents.items()), len(contents) // 2
        return await self._post_batch(records, dict(items[:half])) | await self._post_batch(records, dict(items[half:]))

    def _remember(self, ids: list[str]) -> None:
        # what never was on a bus has an id that others will have, too
        self._answered.update(dict.fromkeys(key for key in ids if not key.startswith("#")))
        while len(self._answered) > _MOST_REMEMBERED:
            del self._answered[next(iter(self._answered))]

    def _content(self, record: Record) -> bytes:
        """A record as it is posted; raises what `_UNWRITABLE` lists."""
        if isinstance(record, str):
            is_json = not self.config.json_ and record.startswith(("{", "["))
            if not (is_json and _META in record):
                return self._text(record, is_json)
            record = msgspec.json.decode(record)
        if isinstance(record, dict) and META in record:
            record = {key: value for key, value in record.items() if key != META}
        return _encoder.encode(record)

    def _text(self, text: str, is_json: bool) -> bytes:
        if self.config.body == "array" and not is_json:
            return _encoder.encode(text)
        if self.config.body == "lines" and "\n" in text:
            raise ValueError("a text of several lines cannot be posted as one")
        return text.encode()


_UNWRITABLE = (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError)


def _cannot_be_written(error: Exception) -> str:
    return f"the record cannot be written: {error}"


def _key(ids: list[str], body: bytes) -> str:
    """The same for the same records; that of one record is its id, as dead letters show it, if a header can hold it."""
    if any(key.startswith("#") for key in ids):
        return blake2b(body, digest_size=16).hexdigest()
    if len(ids) == 1 and re.fullmatch(r"[!-~]{1,200}", ids[0]):
        return ids[0]
    return blake2b("\n".join(ids).encode(), digest_size=16).hexdigest()


def _header_value(what: str, value: str) -> None:
    if not re.fullmatch(r"[\t -~]*", value) or value != value.strip():
        raise ValueError(f"{what} has line breaks, spaces at an end or letters that no header can hold")


def _is_internal(host: str) -> bool:
    """Whether a host is a literal address, in whatever notation, of link-local, multicast or unspecified kind."""
    try:
        address: ipaddress.IPv4Address | ipaddress.IPv6Address = ipaddress.ip_address(host)
    except ValueError:
        try:
            address = ipaddress.ip_address(socket.inet_aton(host))
        except OSError:
            return False
    mapped = getattr(address, "ipv4_mapped", None) or address
    return bool(mapped.is_link_local or mapped.is_multicast or mapped.is_unspecified)

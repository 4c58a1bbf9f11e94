"""Reads the lines that `influx_line_protocol` makes, from InfluxDB 1 and from what answers its queries as InfluxDB 2 does.

Queries are InfluxQL. InfluxDB 2 takes them with a token, where each bucket is a database too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import httpx2

from tiro.sources import Sample, Series, SourceError, Wanted, like

_TIMEOUT = 60.0
_STATEMENTS_AT_ONCE = 50
_NUMBERS = {"float", "integer", "unsigned"}
_NANOSECONDS = 1_000_000_000


class InfluxSource:
    """A measurement of a database; `influxdb://user:password@host:8086/database`, or `?token=...` for InfluxDB 2."""

    def __init__(self, url: str, measurement: str) -> None:
        parts = urlsplit(url)
        options = {key: values[-1] for key, values in parse_qs(parts.query).items()}
        if unknown := sorted(set(options) - {"token", "rp"}):
            raise SourceError(f"unknown option `{unknown[0]}` in the address of InfluxDB; there are: token, rp")
        above, _, database = parts.path.rstrip("/").rpartition("/")
        if not parts.hostname or not database:
            raise SourceError("the address of InfluxDB names no database; write influxdb://host:8086/database")
        port = parts.port or 8086
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        self.address = f"{'https' if parts.scheme.endswith('s') else 'http'}://{host}:{port}{above}"
        self.measurement = measurement
        self.parameters = {"db": unquote(database), "epoch": "ns", **({"rp": options["rp"]} if "rp" in options else {})}
        self.headers = {"Authorization": f"Token {options['token']}"} if "token" in options else {}
        self.login = (unquote(parts.username), unquote(parts.password or "")) if parts.username else None

    def history(self, wanted: Wanted) -> Iterator[Sample]:
        """The samples, or one a step."""
        by_step = f"time({max(1, round(wanted.step * 1000))}ms), " if wanted.step else ""
        filled = " fill(none)" if wanted.step else ""
        return self._select(wanted, wanted.aggregate if wanted.step else None, by_step, filled)

    def latest(self, wanted: Wanted) -> Iterator[Sample]:
        """The last sample of each data point."""
        return self._select(wanted, "last", "", "")

    def _select(self, wanted: Wanted, aggregate: str | None, by_step: str, filled: str) -> Iterator[Sample]:
        with self._client() as client:
            types = self._field_types(client)
            statements = []
            for type_path, condition in self._meant(client, wanted):
                field = type_path.rpartition(".")[2]
                known = types.get(field, set())
                function = "last" if aggregate in ("mean", "min", "max", "sum") and not known & _NUMBERS else aggregate
                what = f"{function}({_name(field)})" if function else _name(field)
                # every name and text in it is quoted
                select = f"SELECT {what} AS value FROM {_name(self.measurement)}"  # noqa: S608
                statements.append(f'{select} WHERE {condition}{_span(wanted)} GROUP BY {by_step}"path", "asset_path", "type"{filled}')
            for series in self._ask_all(client, statements):
                tags = series["tags"]
                found = Series(tags["asset_path"], tags["path"], tags["type"])
                if wanted.means(found):
                    is_float = "float" in types.get(found.name, set())
                    yield from (
                        Sample(found, time / _NANOSECONDS, float(value) if is_float and isinstance(value, int) else value)
                        for time, value in series["values"]
                        if value is not None
                    )

    def _client(self) -> httpx2.Client:
        return httpx2.Client(auth=self.login, headers=self.headers, timeout=_TIMEOUT, trust_env=False)

    def _field_types(self, client: httpx2.Client) -> dict[str, set[str]]:
        types: dict[str, set[str]] = {}
        for series in self._ask_all(client, [f"SHOW FIELD KEYS FROM {_name(self.measurement)}"]):
            for field, type_ in series["values"]:
                types.setdefault(field, set()).add(type_)
        return types

    def _meant(self, client: httpx2.Client, wanted: Wanted) -> Iterator[tuple[str, str]]:
        """Each type path that may be meant, with what tells its series."""
        whole = like(wanted.pattern).whole
        for type_path in self._tags(client, "path", ""):
            condition = f'"path" = {_text(type_path)}'
            if wanted.type_paths is not None and type_path not in wanted.type_paths:
                continue
            if wanted.pattern.fits_type(type_path):
                yield type_path, condition
            elif whole:
                kinds = list(self._tags(client, "type", condition))
                assets = self._tags(client, "asset_path", condition)
                meant = [asset for asset in assets if any(wanted.means(Series(asset, type_path, kind)) for kind in kinds)]
                if meant:
                    chosen = " OR ".join(f'"asset_path" = {_text(asset)}' for asset in meant)
                    yield type_path, f"{condition} AND ({chosen})"

    def _tags(self, client: httpx2.Client, tag: str, condition: str) -> Iterator[str]:
        where = f" WHERE {condition}" if condition else ""
        for series in self._ask_all(client, [f"SHOW TAG VALUES FROM {_name(self.measurement)} WITH KEY = {_name(tag)}{where}"]):
            for _, value in series["values"]:
                yield value

    def _ask_all(self, client: httpx2.Client, statements: Iterable[str]) -> Iterator[dict[str, Any]]:
        left = list(statements)
        while left:
            now, left = left[:_STATEMENTS_AT_ONCE], left[_STATEMENTS_AT_ONCE:]
            for result in self._ask(client, "; ".join(now)):
                yield from result.get("series", ())

    def _ask(self, client: httpx2.Client, query: str) -> list[dict[str, Any]]:
        try:
            answer = client.post(f"{self.address}/query", params=self.parameters, data={"q": query})
            said = answer.json()
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:
            raise SourceError(f"InfluxDB at {self.address}: {type(error).__name__} {error}".rstrip()) from error
        except ValueError:
            raise SourceError(f"{self.address}/query answers {answer.status_code} with no JSON; is it an InfluxDB?") from None
        reasons = [part["error"] for part in (said, *said.get("results", ())) if "error" in part]
        if reasons or not answer.is_success:
            login = "; check the login or token in the address" if answer.status_code in (401, 403) else ""
            raise SourceError(f"InfluxDB at {self.address}: {'; '.join(reasons) or answer.status_code}{login}")
        results: list[dict[str, Any]] = said["results"]
        return results


def _span(wanted: Wanted) -> str:
    begun = f" AND time >= {round(wanted.start * _NANOSECONDS)}" if wanted.start is not None else ""
    return begun + (f" AND time < {round(wanted.end * _NANOSECONDS)}" if wanted.end is not None else "")


def _name(text: str) -> str:
    """A measurement, tag or field, quoted."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _text(text: str) -> str:
    """A value of a tag, quoted."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"

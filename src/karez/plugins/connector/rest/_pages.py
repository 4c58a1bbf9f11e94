"""Pages: how the next one is asked for, and when there is none."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal
from urllib.parse import urljoin

import httpx2
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from karez.plugins.connector.rest._answer import NoSuchPage, Unread, find, items_at, parse_path
from karez.plugins.connector.rest._client import Answer, Client, Request


class Pagination(BaseModel):
    """How an answer that comes in pages is read to its end."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    type: Literal["page", "offset", "cursor", "link"]
    """What leads to the next page: its number, the number of records before it, a cursor in the answer, or a link."""
    param: str = ""
    """Query parameter for the page number, the offset or the cursor; unless set `page`, `offset` or `cursor`."""
    first: int = Field(default=1, ge=0)
    """Number of the first page, with `page`."""
    size_param: str | None = None
    """Query parameter for the number of records in a page."""
    size: int | None = Field(default=None, ge=1)
    """Number of records in a page that is asked for."""
    field: str = ""
    """Path in the answer to the next cursor or link, as in `meta.next`; a `link` without it is taken from the Link header."""
    total: str = ""
    """Path in the answer to the number of all records, which saves the request for an empty last page."""
    max_pages: int = Field(default=100, ge=1)
    """Most pages for one request; more are reported as a failure, and what was read is delivered."""

    @field_validator("field", "total")
    @classmethod
    def _is_path(cls, value: str) -> str:
        parse_path(value)
        return value

    @model_validator(mode="after")
    def _complete(self) -> Pagination:
        if self.type == "cursor" and not self.field:
            raise ValueError("`type: cursor` needs `field`: the path in the answer to the next cursor, as in `meta.next`")
        if (self.size is None) != (self.size_param is None):
            raise ValueError("`size` and `size_param` belong together: how many records in a page, and by which parameter that is said")
        self.param = self.param or self.type
        return self

    def first_request(self, request: Request) -> Request:
        """The request for the first page."""
        params = dict(request.params)
        if self.size_param is not None:
            params[self.size_param] = str(self.size)
        if self.type in ("page", "offset"):
            params[self.param] = str(self.first if self.type == "page" else 0)
        return replace(request, params=params)

    def next_request(self, request: Request, answer: Answer, items: int, read: int, number: int) -> Request | None:
        """The request for the page after page `number` (from 1), which had `items` records and made it `read` in all."""
        if self.type in ("page", "offset"):
            if not items or (self.total and read >= _as_count(find(answer.value, parse_path(self.total)))):
                return None
            after = self.first + number if self.type == "page" else read
            return replace(request, params={**request.params, self.param: str(after)})
        if self.type == "cursor":
            cursor = _there(answer.value, self.field)
            return replace(request, params={**request.params, self.param: str(cursor)}) if cursor else None
        link = _there(answer.value, self.field) if self.field else answer.next_link
        return replace(request, path=urljoin(answer.url, str(link)), params={}) if link else None


def _there(answer: Any, path: str) -> Any:
    """What a page says about its successor; a last page may leave it out, at any step of the path."""
    try:
        return find(answer, parse_path(path))
    except Unread:
        return None


def _as_count(value: Any) -> int:
    try:
        return int(value)
    except (TypeError, ValueError, OverflowError):
        raise Unread(f"the total number of records is {value!r:.50}, no number; look at `total` in `pagination`") from None


async def read_pages(
    client: Client, request: Request, records: list[str], pagination: Pagination | None
) -> tuple[list[Any], Unread | None]:
    """The items on all pages, and what ended the reading before the last page, if anything did.

    Raises `Unread` if not even the first page could be read.
    """
    if pagination is None:
        return items_at((await client.ask(request)).value, records), None
    answer = await client.ask(request := pagination.first_request(request))
    items = items_at(answer.value, records)
    on_page = len(items)
    try:
        for number in range(1, pagination.max_pages + 1):
            following = pagination.next_request(request, answer, on_page, len(items), number)
            if following is None:
                return items, None
            _check_next(client, request, following, number, pagination)
            page = await _next_page(client, following, pagination)
            if page is None:
                return items, None
            if on_page and page.digest == answer.digest:
                raise Unread(f"{following}: the same page comes again and again; look at `param` in `pagination`")
            found = items_at(page.value, records)
            items.extend(found)
            request, answer, on_page = following, page, len(found)
    except Unread as error:
        return items, error
    return items, None


def _check_next(client: Client, request: Request, following: Request, number: int, pagination: Pagination) -> None:
    if number == pagination.max_pages:
        raise Unread(f"{request}: more than {number} pages; raise `max_pages` in `pagination`")
    if following == request:
        raise Unread(f"{request}: the next page leads to the same page again")
    if "://" in following.path and not client.may_lead_to(httpx2.URL(following.path)):
        host = httpx2.URL(following.path).host
        raise Unread(f"{request}: the link to the next page leads to {host}, another host; if that is meant, add it to `allowed_hosts`")


async def _next_page(client: Client, request: Request, pagination: Pagination) -> Answer | None:
    try:
        return await client.ask(request)
    except NoSuchPage:
        # many servers say so after the last page
        if pagination.type == "page":
            return None
        raise

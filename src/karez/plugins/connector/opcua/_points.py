"""Node ids and entities → what to read; what the server answers → records."""

from __future__ import annotations

import base64
import dataclasses
import uuid
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from enum import Enum
from typing import Any, NamedTuple

from asyncua import ua
from asyncua.ua.ua_binary import nodeid_to_binary

from karez import Entity, Failed, Record

_VALUE = ua.AttributeIds.Value
_NO_TIME = datetime(1601, 1, 1, tzinfo=UTC)
_QUALITIES = ("good", "uncertain", "bad", "bad")
_ABSENT = {
    ua.StatusCodes.BadNodeIdUnknown: "the server has no such node",
    ua.StatusCodes.BadNodeIdInvalid: "the server says that this is no node id",
    ua.StatusCodes.BadAttributeIdInvalid: "the node has no value, so it is no variable",
}
_AS_IT_IS = frozenset({float, int, bool, type(None)})


class Point(NamedTuple):
    """One node to read, and the name of its records."""

    name: str
    read: ua.ReadValueId


def parse_node_id(text: str, namespaces: Sequence[str]) -> ua.NodeId:
    """The node id in a text; `nsu=` is looked up in the server's `namespaces` if there are any. Raises `ValueError`."""
    try:
        node_id = ua.NodeId.from_string(text)
        uri, server = getattr(node_id, "NamespaceUri", None), getattr(node_id, "ServerIndex", None)
        index = namespaces.index(uri) if uri and namespaces and uri in namespaces else node_id.NamespaceIndex
        node_id = ua.NodeId(node_id.Identifier, index, node_id.NodeIdType)
        if node_id.NodeIdType is ua.NodeIdType.Numeric:
            node_id = ua.NodeId(node_id.Identifier, index)
        nodeid_to_binary(node_id)  # finds what no message can hold, before it spoils one
    except Exception:
        raise ValueError(f"{text!r} is not a node id; write it as in ns=2;s=Rack1.Power or ns=2;i=5") from None
    if server:
        raise ValueError(f"{text!r} is a node of another server")
    if uri and namespaces and uri not in namespaces:
        raise ValueError(f"{text!r}: the server has no namespace {uri!r}; it has {', '.join(namespaces)}")
    return node_id


def point_of(node_id: Any, name: Any, namespaces: Sequence[str]) -> Point | str:
    """What to read for an entity, or the reason why nothing can be read."""
    if not node_id:
        return "it has no NodeId; an entity is a node id such as ns=2;s=Rack1.Power, or an object with one in `NodeId`"
    if not isinstance(node_id, str):
        return f"a node id is a text such as ns=2;s=Rack1.Power, not {node_id!r}"
    try:
        return Point(str(name), ua.ReadValueId(NodeId=parse_node_id(node_id, namespaces), AttributeId=_VALUE))
    except ValueError as error:
        return str(error)


def records_of(
    entities: Sequence[Entity], points: Sequence[Point], answers: Sequence[ua.DataValue], read_at: float
) -> list[Record | Failed]:
    """One record an answer, in the order of the points."""
    found: list[Record | Failed] = []
    for entity, (name, _), answer in zip(entities, points, answers, strict=True):
        value = answer.Value.Value
        if value.__class__ not in _AS_IT_IS:
            value = plain(value)
        source = answer.SourceTimestamp
        timestamp = read_at if source is None or source <= _NO_TIME else source.timestamp()
        code = answer.StatusCode.value
        if code == 0:
            found.append({"name": name, "value": value, "timestamp": timestamp, "quality": "good"})
        elif code in _ABSENT:
            found.append(Failed(entity, f"{_ABSENT[code]} ({answer.StatusCode.name})"))
        else:
            quality = _QUALITIES[code >> 30]
            status = _status_name(code)
            value = None if quality == "bad" else value
            found.append({"name": name, "value": value, "timestamp": timestamp, "quality": quality, "status": status})
    return found


def is_number(record: Any) -> bool:
    """Whether a record has a number, or might have had one if it were not bad."""
    return isinstance(record["value"], int | float) or record["quality"] == "bad"


def _status_name(code: int) -> str:
    # the lower half holds flags of the value, such as an overflow of its queue
    name, _ = ua.status_codes.get_name_and_doc(code & 0xFFFF0000)
    return name if ua.status_codes.code_to_name_doc.get(code & 0xFFFF0000) else f"{name} (0x{code:08X})"


def plain(value: Any) -> Any:
    """What JSON can hold of a value; numbers are never changed."""
    if value.__class__ in _AS_IT_IS:
        return value
    if isinstance(value, str):
        return value if value.isascii() else _text(value)
    for kind, convert in _CONVERSIONS:
        if isinstance(value, kind):
            return convert(value)
    if dataclasses.is_dataclass(value):
        names = [item.name for item in dataclasses.fields(value) if item.name != "Encoding"]
        return {name: plain(getattr(value, name)) for name in names}
    return str(value)


def _text(value: str) -> str:
    """A text without the stand-ins that the library puts for bytes that are no UTF-8: they are written as `\\xff`."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return value.encode(errors="surrogateescape").decode(errors="backslashreplace")
    return value


def _time(value: datetime) -> str:
    utc = value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
    return utc.isoformat().replace("+00:00", "Z")


def _base64(value: bytes) -> str:
    return base64.b64encode(value).decode()


_CONVERSIONS: tuple[tuple[Any, Callable[[Any], Any]], ...] = (
    (Enum, lambda value: plain(value.value)),
    (int, int),
    (float, float),
    (datetime, _time),
    (bytes, _base64),
    (uuid.UUID, str),
    (list | tuple, lambda value: [plain(item) for item in value]),
    (ua.LocalizedText, lambda value: plain(value.Text)),
    (ua.QualifiedName, lambda value: plain(value.Name)),
    (ua.StatusCode, lambda value: _status_name(value.value)),
    (ua.NodeId, lambda value: plain(value.to_string())),
    (ua.Variant, lambda value: plain(value.Value)),
    (ua.DataValue, lambda value: plain(value.Value)),
)

"""Reads the values of nodes from an OPC UA server.

An entity is a node id (`ns=2;s=Rack1.Power`, `ns=2;i=5`, `nsu=urn:factory;s=Power`), or an object with one in `NodeId`
(`node_id` and `nodeid` are read too) and optionally a `Name`; other columns, such as those of an address file, do no harm.
The nodes of a task are read with as few requests as the server allows, in one session that is kept. Each gives

    {"name": "ns=2;s=Rack1.Power", "value": 420.5, "timestamp": 1700000000.25, "quality": "good"}

`name` is the `Name` of the entity, or else its node id. `timestamp` is the source's, in seconds since 1970 (UTC), or the
time of reading where the server gives none. `quality` is `good`, `uncertain` or `bad`; `status` is the name of the status
code unless that is `Good`. A bad value is null: what the server last knew is not what is. A node that the server
does not have, or that has no value, is an entity that failed; its neighbours are delivered.

Integers stay exact. Times become ISO 8601 texts (UTC), byte strings base64, localized texts their text, enumerations
integers, arrays lists, and structures objects; a structure of the server's own is `{"TypeId", "Body"}`, its body in base64.

`discover()` browses all variables below `root`, so that the dispatcher `discover` can find out what there is to read; each
is named by its path of browse names.

```yaml
connectors:
  - type: opcua
    url: opc.tcp://plc.example.com:4840
    timeout: 10s
    security:
      username: reader
      password: ${OPCUA_PASSWORD:-secret}
```

A server that wants encryption has a `policy`, and gets our certificate, whose application URI is used as ours:
`security: {policy: Basic256Sha256, mode: SignAndEncrypt, certificate: karez.der, private_key: karez.pem}`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Annotated, Any
from urllib.parse import urlsplit

from asyncua import Client, ua
from pydantic import BeforeValidator, Field, field_validator

from karez import ConnectorConfig, Duration, Entity, Failed, NotConnected, PullConnector, Record
from karez.plugins.connector.opcua._browse import browse
from karez.plugins.connector.opcua._points import Point, is_number, parse_node_id, point_of, records_of
from karez.plugins.connector.opcua._session import Security, close_session, is_about_data, open_session, reason_of, shown

_PORT = 4840
_MAX_NODES = 1000
_MAX_POINTS_KEPT = 500_000
_LIMITS = (
    ua.ObjectIds.Server_NamespaceArray,
    ua.ObjectIds.Server_ServerCapabilities_OperationLimits_MaxNodesPerRead,
    ua.ObjectIds.Server_ServerCapabilities_OperationLimits_MaxNodesPerBrowse,
)


class Config(ConnectorConfig):
    """Where the server is, and how it is read."""

    url: str
    """Address of the server, `opc.tcp://host:port`; the port is 4840 unless given."""
    timeout: Annotated[Duration, Field(gt=0)] = 60.0
    """Longest time to wait for an answer of the server."""
    num_only: bool = False
    """Whether only numbers (integers, floats and booleans) are delivered; other points are left out, and named in the log once."""
    security: Annotated[Security, BeforeValidator(lambda value: {} if value in (None, "none") else value)] = Security()
    """Policy, mode and certificates of the connection, and the user to log in with; `none` is an open connection without a user."""
    max_nodes_per_read: int | None = Field(default=None, ge=1, le=100_000)
    """Nodes read with one request; unless set what the server says it allows, at most 1000."""
    root: str = "i=85"
    """Node below which variables are discovered; unless set the folder `Objects`."""
    depth: int = Field(default=32, ge=1, le=1000)
    """How many levels below `root` are browsed to discover variables."""
    namespaces: list[Annotated[int, Field(ge=0, le=65535)]] | None = None
    """Namespaces whose variables are discovered; unless set all but 0, in which the server describes itself."""

    @field_validator("url")
    @classmethod
    def _is_opc_tcp(cls, value: str) -> str:
        try:
            parts = urlsplit(value)
            port = parts.port
        except ValueError as error:
            raise ValueError(f"{shown(value)} is no address: {error}; write opc.tcp://host:{_PORT}") from None
        if parts.scheme != "opc.tcp" or not parts.hostname:
            raise ValueError(f"{shown(value)} is no address of an OPC UA server; write opc.tcp://host:{_PORT}")
        return value if port else parts._replace(netloc=f"{parts.netloc.rstrip(':')}:{_PORT}").geturl()

    @field_validator("root")
    @classmethod
    def _is_node_id(cls, value: str) -> str:
        parse_node_id(value, ())
        return value

    def warnings(self) -> list[tuple[str, str]]:
        """What is allowed but probably not meant."""
        if urlsplit(self.url).username is not None:
            return [("url", "it holds a user, and is shown in full; write `security: {username: ..., password: ...}`")]
        return []


class Connector(PullConnector[Config]):
    """Reads the values of nodes in few requests, in a session that is kept."""

    _client: Client | None = None
    _has_left = False
    _max_read = _MAX_NODES
    _max_browse = _MAX_NODES

    async def open(self) -> None:
        """Open a session, and ask the server what it allows."""
        await self.close()
        self._has_left = False
        client = await open_session(self.config.url, self.config.timeout, self.config.security)
        self._client = client
        self._points: dict[Any, Point | str] = {}
        self._said: set[str] = set()
        self._left_out: set[str] = set()
        try:
            read = [ua.ReadValueId(NodeId=ua.NodeId(number), AttributeId=ua.AttributeIds.Value) for number in _LIMITS]
            namespaces, max_read, max_browse = (answer.Value.Value for answer in await self._request(client, read))
        except BaseException:
            await self.close()
            raise
        self._namespaces = tuple(namespaces or ())
        self._max_read = min(self.config.max_nodes_per_read or _MAX_NODES, max_read or _MAX_NODES)
        self._max_browse = min(max_browse or _MAX_NODES, _MAX_NODES)

    async def close(self) -> None:
        """Close session and connection."""
        client, self._client = self._client, None
        if client is not None:
            await close_session(client)

    async def leave(self, device: str) -> None:
        """End the session, because another worker has its turn; the next fetch opens one again."""
        if device == self.device_of(None):
            await self.close()
            self._has_left = True

    def account(self) -> str:
        """The user that logs in."""
        return self.config.security.username or ""

    def count_requests(self, entities: Sequence[Entity]) -> int:
        """The requests of a task, if the server allows as many nodes as the options say."""
        return -(-len(entities) // (self.config.max_nodes_per_read or _MAX_NODES))

    async def check(self) -> None:
        """Ask the server whether it is running."""
        state = ua.ReadValueId(NodeId=ua.NodeId(ua.ObjectIds.Server_ServerStatus_State), AttributeId=ua.AttributeIds.Value)
        answer = (await self._request(await self._connected(), [state]))[0]
        if answer.Value.Value != ua.ServerState.Running:
            name = ua.ServerState(answer.Value.Value).name if isinstance(answer.Value.Value, int) else answer.StatusCode.name
            raise NotConnected(f"{shown(self.config.url)}: the server says that its state is {name}")

    async def fetch(self, entities: list[Entity]) -> list[Record | Failed]:
        """Read these nodes, in as many requests as the server's limit makes necessary."""
        client = await self._connected()
        found: list[Record | Failed] = []
        known: list[Entity] = []
        points: list[Point] = []
        for entity in entities:
            point = self._point(entity)
            if point.__class__ is Point:
                known.append(entity)
                points.append(point)
            else:
                found.append(Failed(entity, str(point)))
        start = 0
        while start < len(points):
            stop = start + self._max_read
            found += await self._read(client, known[start:stop], points[start:stop])
            start = stop
        return self._numbers(found) if self.config.num_only else found

    async def discover(self) -> list[Entity]:
        """All variables below `root`: their node ids, and their paths as names."""
        client = await self._connected()
        root = parse_node_id(self.config.root, self._namespaces)
        try:
            found, problems = await browse(client, root, self.config.depth, self.config.namespaces, self._max_browse)
        except (ua.UaError, OSError, TimeoutError) as error:
            raise NotConnected(reason_of(error, self.config.url, self.config.timeout)) from error
        if problems:
            self.log.warning("browsing left out %d nodes: %s", len(problems), "; ".join(problems[:5]))
        return found

    async def _connected(self) -> Client:
        if self._has_left:
            await self.open()
        if self._client is None:
            raise NotConnected(f"{shown(self.config.url)}: there is no session")
        return self._client

    def _point(self, entity: Entity) -> Point | str:
        """What to read for an entity, or why it cannot be read; worked out once a session."""
        if entity.__class__ is dict:
            node_id = entity.get("NodeId") or entity.get("node_id") or entity.get("nodeid")
            name = entity.get("Name") or entity.get("name") or node_id
        else:
            node_id = name = entity
        try:
            return self._points[node_id, name]
        except KeyError:
            pass
        except TypeError:  # a list or an object in place of a node id
            return point_of(node_id, name, self._namespaces)
        if len(self._points) >= _MAX_POINTS_KEPT:
            self._points.clear()
        point = self._points[node_id, name] = point_of(node_id, name, self._namespaces)
        return point

    async def _read(self, client: Client, entities: Sequence[Entity], points: Sequence[Point]) -> list[Record | Failed]:
        """Read these with one request; what spoils the answer for all is found by halving."""
        try:
            answers = await self._request(client, [point.read for point in points])
            return records_of(entities, points, answers, time.time())
        except NotConnected:
            raise
        except Exception as error:
            reason = reason_of(error, self.config.url, self.config.timeout)
        if len(points) == 1:
            return [Failed(entities[0], reason)]
        half = len(points) // 2
        if reason not in self._said:
            self._said.add(reason)
            self.log.info("a read of %d nodes failed, it is tried in halves: %s", len(points), reason)
        first = await self._read(client, entities[:half], points[:half])
        return first + await self._read(client, entities[half:], points[half:])

    async def _request(self, client: Client, read: list[ua.ReadValueId]) -> list[ua.DataValue]:
        """One read request; raises `NotConnected`, or what is wrong with the nodes or with their number."""
        try:
            answers: list[ua.DataValue] = await client.uaclient.read(ua.ReadParameters(NodesToRead=read))
        except (OSError, TimeoutError) as error:
            raise NotConnected(reason_of(error, self.config.url, self.config.timeout)) from error
        except ua.UaStatusCodeError as error:
            if not is_about_data(error):
                raise NotConnected(reason_of(error, self.config.url, self.config.timeout)) from error
            if isinstance(error, ua.uaerrors.BadTooManyOperations):
                self._max_read = max(1, min(self._max_read, len(read) // 2))
            raise
        if len(answers) != len(read):
            raise ValueError(f"the server gave {len(answers)} answers to a read of {len(read)} nodes")
        return answers

    def _numbers(self, found: list[Record | Failed]) -> list[Record | Failed]:
        """Only those with a number; what is bad stays, because it may have been one."""
        numbers: list[Record | Failed] = []
        others: list[Any] = []
        for item in found:
            (numbers if item.__class__ is not dict or is_number(item) else others).append(item)
        new = {str(item["name"]) for item in others} - self._left_out
        if new:
            self._left_out |= new
            self.log.info("num_only leaves out %d points whose values are no numbers: %s", len(new), ", ".join(sorted(new)[:10]))
        return numbers

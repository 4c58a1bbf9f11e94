"""Keeps assets, their relations and the latest value of each data point as a graph in ArangoDB.

```yaml
converters:
  - type: tiro_preprocess
    next: as_graph_data
  - name: as_graph_data
    type: filter_and_update_meta
    rename: {telemetry: graph_data, attribute: graph_data}
aggregators:
  - type: arango_db
    category: graph_data
    scenario: scenario/scenario.yaml
    uses: scenario/use-srv1.yaml,scenario/use-srv2.yaml
    db_name: tiro
    graph_name: scenario
    hosts: http://localhost:8529
    auth:
      password: ${ARANGO_PASSWORD:-secret}
```

**The graph.** A vertex is the root (collection `Scenario`, key `000`), an asset (the collection of its type, key its path), or a data point
(collection `Telemetry` or `Attribute`, key its path) with `value`, `unit` and `timestamp`, the latest that came. The edges `is_parent_of`
join the assets, `has_data_point` an asset and its data points. In a key, what ArangoDB does not take is percent-encoded. Database, graph
and collections are created on demand; a graph that is there gets what it lacks and loses nothing. Records are those that
`tiro_preprocess` makes.

**Repeated batches** write the same vertices and edges under the same keys, so they add nothing. From ArangoDB 3.12 on an older value
never replaces a newer one (`versionAttribute`); before, the last one that is written stays.

**Defaults.** A data point that has a default and was never measured is there with that default and without a timestamp.

**Bad records**, which are of no asset of the scenario, have no time, or are refused by the server one by one, go to the dead letters, the
others are stored. When the server is away, busy or refuses the login, the batch waits.

No ArangoDB could be had for the tests of this plugin: they compare its requests with the documented HTTP API (3.12), by a server that
answers as documented.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

from aiohttp import ClientError, ClientTimeout
from arangoasync import ArangoClient
from arangoasync.auth import Auth
from arangoasync.database import StandardDatabase
from arangoasync.exceptions import ArangoClientError, ArangoServerError
from arangoasync.http import AioHTTPClient
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

import karez
from karez import AggregatorConfig, Duration, NotConnected, Records, Rejected, Secret
from tiro.graph import Edge, Graph, Part, Place, Vertex
from tiro.plugins.inputs import ScenarioOptions

_NO_DATABASE = 1228
# numbers of ArangoDB's errors that pass: locked, out of resources, read-only, conflict with another writer, cluster or leader away
_PASSING = frozenset({18, 21, 32, 1004, 1200, 1457, 1465, 1495, 1496, 1497})
_STATUS_OF_DATA = frozenset({400, 413, 422})
_VERSION = "version"


class Login(BaseModel):
    """Who we are to the server."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    username: str = "root"
    """User, who may write to the database, or create it if it is not there."""
    password: Secret = Secret("")
    """Password of that user."""


def _as_list(value: Any) -> Any:
    return [part.strip() for part in value.split(",")] if isinstance(value, str) else value


class Config(AggregatorConfig, ScenarioOptions):
    db_name: str = Field(default="tiro", pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,63}$")
    """Name of the database; it is created on demand."""
    graph_name: str = Field(default="scenario", pattern=r"^[A-Za-z0-9_-]{1,64}$")
    """Name of the graph; it is created on demand."""
    hosts: Annotated[list[Annotated[str, Field(pattern=r"^https?://[^@/\s]+$")]], BeforeValidator(_as_list), Field(min_length=1)] = [
        "http://localhost:8529"
    ]
    """Address of the server, or those of the coordinators of a cluster, as a list or a text with commas."""
    auth: Login = Login()
    """Who we are to the server."""
    timeout: Annotated[Duration, Field(gt=0)] = 30.0
    """Longest time that one request may take."""


class Aggregator(karez.Aggregator[Config]):
    _client: ArangoClient | None = None
    _database: StandardDatabase | None = None

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._graph = Graph(config.as_read)

    async def open(self) -> None:
        """Connect, and create the database and the graph if they are not there."""
        await self.close()
        self._graph = Graph(self.config.as_read)
        config = self.config
        self._client = ArangoClient(config.hosts, http_client=AioHTTPClient(timeout=ClientTimeout(total=config.timeout)))
        try:
            self._database = await self._opened(self._client)
            await self._prepare(self._database)
        except Exception as error:
            await self.close()
            raise self._away(error) from error

    async def close(self) -> None:
        """Close the connections."""
        client, self._client, self._database = self._client, None, None
        if client is not None:
            await client.close()

    async def write(self, records: Records) -> None:
        """Store what the batch says: vertices first, then the edges between them, one request a collection."""
        if self._database is None:
            raise NotConnected("the database is not open")
        part = self._graph.draw(records)
        refused: dict[int, str] = dict(part.rejected)
        for collection, documents, mode in _documents(part):
            for place, reason in (await self._insert(self._database, collection, documents, mode)).items():
                origins = part.origins.get(place)
                if origins is None:  # an asset, an edge or a default: no record is to blame alone
                    raise RuntimeError(f"{self._place()}: {place} cannot be stored: {reason}")
                refused.update(dict.fromkeys(origins, f"{place}: {reason}"))
        self._graph.is_written(part)
        if refused:
            raise Rejected("; ".join(list(dict.fromkeys(refused.values()))[:5]), [records[number] for number in sorted(refused)])

    async def _opened(self, client: ArangoClient) -> StandardDatabase:
        login = Auth(self.config.auth.username, self.config.auth.password.get_secret_value())
        database = await client.db(self.config.db_name, auth=login)
        try:
            await database.properties()
        except ArangoServerError as error:
            if error.error_code != _NO_DATABASE:
                raise
            system = await client.db("_system", auth=login)
            await system.create_database(self.config.db_name)
        return database

    async def _prepare(self, database: StandardDatabase) -> None:
        """Make the graph, or add to one that is there what the scenario has and it lacks."""
        name = self.config.graph_name
        wanted = self._graph.collections()
        if not await database.has_graph(name):
            definitions = [{"collection": relation, "from": origins, "to": goals} for relation, (origins, goals) in wanted.items()]
            await database.create_graph(name, edge_definitions=definitions)
            return
        graph = database.graph(name)
        present = {one["edge_collection"]: one for one in await graph.edge_definitions()}
        for relation, (origins, goals) in wanted.items():
            if relation not in present:
                await graph.create_edge_definition(relation, origins, goals)
                continue
            known_origins, known_goals = present[relation]["from_vertex_collections"], present[relation]["to_vertex_collections"]
            if not (set(origins) <= set(known_origins) and set(goals) <= set(known_goals)):
                united = sorted({*origins, *known_origins}), sorted({*goals, *known_goals})
                await graph.replace_edge_definition(relation, *united)

    async def _insert(self, database: StandardDatabase, collection: str, documents: dict[Place, Any], mode: str) -> dict[Place, str]:
        """Write documents of one collection; returns those that the server refuses, and why."""
        newer = _VERSION if mode == "update" else None
        try:
            answers: Any = await database.collection(collection).insert_many(
                list(documents.values()), overwrite_mode=mode, version_attribute=newer
            )
        except Exception as error:
            if isinstance(error, ArangoServerError) and error.http_code in _STATUS_OF_DATA:
                raise
            raise self._away(error) from error
        refused = {}
        for place, answer in zip(documents, answers, strict=True):
            if answer.get("error"):
                if answer.get("errorNum") in _PASSING:
                    raise NotConnected(f"{self._place()}: {answer.get('errorMessage')}")
                refused[place] = str(answer.get("errorMessage"))
        return refused

    def _place(self) -> str:
        return f"ArangoDB {', '.join(self.config.hosts)}, database {self.config.db_name}"

    def _away(self, error: Exception) -> Exception:
        if isinstance(error, TimeoutError):
            return NotConnected(f"{self._place()}: no answer within {self.config.timeout:g} s")
        if isinstance(error, ArangoServerError):
            hint = "; check `auth` and what this user may do" if error.http_code in (401, 403) else ""
            return NotConnected(f"{self._place()}: {error.message}{hint}")
        if isinstance(error, ArangoClientError | ClientError | OSError):
            return NotConnected(f"{self._place()}: {error}")
        return error


def _documents(part: Part) -> Iterable[tuple[str, dict[Place, Any], str]]:
    """What is written, in order: the collection, its documents, and what they do with one that is there."""
    for vertices, mode in ((part.assets, "ignore"), (part.defaults, "ignore"), (part.points, "update")):
        for collection in dict.fromkeys(place.collection for place in vertices):
            yield collection, {place: _vertex(one) for place, one in vertices.items() if place.collection == collection}, mode
    for relation in dict.fromkeys(edge.relation for edge in part.edges.values()):
        yield relation, {place: _edge(edge) for place, edge in part.edges.items() if edge.relation == relation}, "ignore"


def _vertex(vertex: Vertex) -> dict[str, Any]:
    document: dict[str, Any] = {"_key": vertex.place.key, "name": vertex.name, "path": vertex.path, "type_path": vertex.type_path}
    if not vertex.is_point:
        return document
    document |= {"value": vertex.value, "unit": vertex.unit, "timestamp": vertex.timestamp}
    # the server compares whole numbers only: microseconds
    return document if vertex.timestamp is None else document | {_VERSION: round(vertex.timestamp * 1_000_000)}


def _edge(edge: Edge) -> dict[str, Any]:
    return {"_key": edge.key, "_from": str(edge.parent), "_to": str(edge.child)}

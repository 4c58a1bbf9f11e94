"""ArangoDB: no server could be had, so this compares requests with its documented HTTP API, by a server that answers as documented.

https://docs.arango.ai/arangodb/3.12/develop/http-api/
"""

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import pytest
from pydantic import ValidationError

from karez.errors import NotConnected
from karez.testing import build, opened, write

# the library uses what a newer version of the library below it calls deprecated
pytestmark = pytest.mark.filterwarnings(
    "ignore:BasicAuth is deprecated:DeprecationWarning", "ignore:The 'auth' parameter is deprecated:DeprecationWarning"
)

CRAC = "DataHall.data_hall_0.CRAC.crac_0"
POINT = f"{CRAC}.Telemetry.ReturnTemperature"
SCENARIO = "DataHall: {$type: DataHall, CRAC: {$type: CRAC, $defaults: {RatedCooling: 20.0}}}"
USE = "- DataHall: [{CRAC: [RatedCooling, ReturnTemperature]}]"


def record(value=23.84, timestamp=1664251882.5, field="ReturnTemperature", kind="Telemetry", asset=CRAC):
    return {"asset_path": asset, "type": kind, "field": field, "value": value, "timestamp": timestamp}


class Arango(ThreadingHTTPServer):
    """Databases, graphs and documents as the documentation describes them; every request is kept."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.requests = []
        self.databases = {"_system"}
        self.graphs = {}
        self.collections = {}
        self.password = "secret"
        self.status = None
        self.refused = {}

    def answer(self, method, path, query, body):
        """Status and body for a request to `/_db/{database}{path}`."""
        _, _, database, *rest = path.split("/")
        path = "/" + "/".join(rest)
        if database not in self.databases:
            return failure(404, 1228, "database not found")
        if (method, path) == ("GET", "/_api/database/current"):
            return 200, {"error": False, "code": 200, "result": {"name": database, "id": "1", "path": "", "isSystem": False}}
        if (method, path) == ("POST", "/_api/database"):
            assert database == "_system", "databases are created from within _system only"
            self.databases.add(body["name"])
            return 201, {"error": False, "code": 201, "result": True}
        if path.startswith("/_api/gharial"):
            return self.graph(method, rest[2:], body)
        assert method == "POST"
        assert path.startswith("/_api/document/"), path
        return self.insert(rest[2], query, body)

    def graph(self, method, names, body):
        if method == "POST" and not names:
            self.graphs[body["name"]] = body["edgeDefinitions"]
        elif names[0] not in self.graphs:
            return failure(404, 1924, "graph not found")
        elif method == "PUT":
            definitions = self.graphs[names[0]]
            definitions[:] = [body if one["collection"] == names[2] else one for one in definitions]
        elif method == "POST":
            self.graphs[names[0]].append(body)
        name = body["name"] if not names else names[0]
        for one in self.graphs[name]:
            for collection in (one["collection"], *one["from"], *one["to"]):
                self.collections.setdefault(collection, {})
        graph = {
            "_key": name,
            "_id": f"_graphs/{name}",
            "_rev": "1",
            "name": name,
            "edgeDefinitions": self.graphs[name],
            "orphanCollections": [],
        }
        return (200 if method == "GET" else 202), {"error": False, "code": 202, "graph": graph}

    def insert(self, collection, query, documents):
        if collection not in self.collections:
            return failure(404, 1203, "collection or view not found")
        answers = []
        for document in documents:
            if fault := self.refused.get(document["_key"]):
                answers.append({"error": True, "errorNum": fault[0], "errorMessage": fault[1]})
                continue
            kept = self.collections[collection].get(document["_key"])
            version = query.get("versionAttribute")
            is_older = kept is not None and version in kept and document[version] <= kept[version]
            if kept is None:
                self.collections[collection][document["_key"]] = dict(document)
            elif query["overwriteMode"] == "update" and not is_older:
                kept.update(document)
            answers.append({"_id": f"{collection}/{document['_key']}", "_key": document["_key"], "_rev": "1"})
        return 202, answers


class Handler(BaseHTTPRequestHandler):
    """Reads a request, checks the login, and sends what `Arango` answers."""

    protocol_version = "HTTP/1.1"

    def handle_one(self):
        server = self.server
        url = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        login = "Basic " + base64.b64encode(f"root:{server.password}".encode()).decode()
        parsed = json.loads(body) if body else None
        server.requests.append((self.command, url.path, query, parsed))
        if self.headers.get("Authorization") != login:
            status, answer = failure(401, 11, "not authorized to execute this request")
        elif server.status:
            status, answer = failure(server.status, 0, "no")
        else:
            status, answer = server.answer(self.command, url.path, query, parsed)
        content = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PUT = handle_one

    def log_message(self, *_):
        pass


def failure(status, number, message):
    return status, {"error": True, "code": status, "errorNum": number, "errorMessage": message}


@pytest.fixture
def arango():
    server = Arango()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def yaml(arango, tmp_path):
    (tmp_path / "scenario.yaml").write_text(SCENARIO)
    (tmp_path / "use.yaml").write_text(USE)
    files = f"scenario: {tmp_path}/scenario.yaml\nuses: {tmp_path}/use.yaml"
    return f"type: arango_db\ncategory: graph_data\n{files}\nhosts: {arango.url}\nauth: {{password: secret}}\n"


async def test_database_and_graph_are_created_on_demand(arango, yaml):
    async with opened("aggregator", yaml):
        pass
    assert [(method, path) for method, path, *_ in arango.requests] == [
        ("GET", "/_db/tiro/_api/database/current"),
        ("POST", "/_db/_system/_api/database"),
        ("GET", "/_db/tiro/_api/gharial/scenario"),
        ("POST", "/_db/tiro/_api/gharial"),
    ]
    assert arango.requests[-1][3] == {
        "name": "scenario",
        "edgeDefinitions": [
            {"collection": "is_parent_of", "from": ["DataHall", "Scenario"], "to": ["CRAC", "DataHall"]},
            {"collection": "has_data_point", "from": ["CRAC", "DataHall"], "to": ["Attribute", "Telemetry"]},
        ],
    }


async def test_a_graph_that_is_there_gets_what_it_lacks_and_loses_nothing(arango, yaml):
    arango.databases.add("tiro")
    arango.graphs["scenario"] = [{"collection": "is_parent_of", "from": ["Scenario", "Site"], "to": ["DataHall"]}]
    async with opened("aggregator", yaml):
        pass
    assert arango.graphs["scenario"][0] == {
        "collection": "is_parent_of", "from": ["DataHall", "Scenario", "Site"], "to": ["CRAC", "DataHall"],
    }  # fmt: skip
    assert [one["collection"] for one in arango.graphs["scenario"]] == ["is_parent_of", "has_data_point"]
    before = len(arango.requests)
    async with opened("aggregator", yaml):
        pass
    assert {method for method, *_ in arango.requests[before:]} == {"GET"}


async def test_records_become_vertices_and_edges_in_one_request_a_collection(arango, yaml):
    async with opened("aggregator", yaml) as node:
        before = len(arango.requests)
        assert await write(node, [record(), record(24.5, 1664251890.0)]) == []
    sent = arango.requests[before:]
    assert [(path.removeprefix("/_db/tiro/_api/document/"), query["overwriteMode"]) for _, path, query, _ in sent] == [
        ("Scenario", "ignore"), ("DataHall", "ignore"), ("CRAC", "ignore"), ("Attribute", "ignore"), ("Telemetry", "update"),
        ("is_parent_of", "ignore"), ("has_data_point", "ignore"),
    ]  # fmt: skip
    assert sent[4][2]["versionAttribute"] == "version"
    assert arango.collections["Scenario"] == {"000": {"_key": "000", "name": "Scenario", "path": "", "type_path": ""}}
    assert arango.collections["CRAC"][CRAC] == {"_key": CRAC, "name": "crac_0", "path": CRAC, "type_path": "DataHall.CRAC"}
    assert arango.collections["Telemetry"][POINT] == {
        "_key": POINT, "name": "ReturnTemperature", "path": POINT, "type_path": "DataHall.CRAC.ReturnTemperature",
        "value": 24.5, "unit": "Cel", "timestamp": 1664251890.0, "version": 1664251890000000,
    }  # fmt: skip
    default = arango.collections["Attribute"][f"{CRAC}.Attribute.RatedCooling"]
    assert (default["value"], default["unit"], default["timestamp"]) == (20.0, "kW", None)
    assert arango.collections["is_parent_of"]["DataHall.data_hall_0"] == {
        "_key": "DataHall.data_hall_0", "_from": "Scenario/000", "_to": "DataHall/DataHall.data_hall_0",
    }  # fmt: skip
    assert arango.collections["has_data_point"][POINT] == {"_key": POINT, "_from": f"CRAC/{CRAC}", "_to": f"Telemetry/{POINT}"}


async def test_later_batches_write_values_only_and_an_older_one_changes_nothing(arango, yaml):
    async with opened("aggregator", yaml) as node:
        await write(node, [record()])
        before = len(arango.requests)
        await write(node, [record(24.0, 1664251890.0)])
        await write(node, [record(1.0, 1664251800.0)])
    assert [path for _, path, *_ in arango.requests[before:]] == ["/_db/tiro/_api/document/Telemetry"] * 2
    assert arango.collections["Telemetry"][POINT]["value"] == 24.0


async def test_a_batch_that_comes_again_to_another_process_adds_nothing(arango, yaml):
    seen = []
    for _ in range(2):
        async with opened("aggregator", yaml) as node:
            await write(node, [record()])
        seen.append(json.dumps(arango.collections))
    assert seen[0] == seen[1]


async def test_records_that_the_server_refuses_go_to_the_dead_letters_and_the_others_are_stored(arango, yaml):
    arango.refused[POINT] = (1620, "schema violation")
    good = record(21.0, field="RatedCooling", kind="Attribute")
    async with opened("aggregator", yaml) as node:
        [dead] = await write(node, [record(), good, {"line": 1}])
    assert dead.records == [record(), {"line": 1}]
    assert "schema violation" in dead.error
    assert arango.collections["Attribute"][f"{CRAC}.Attribute.RatedCooling"]["value"] == 21.0


async def test_a_conflict_with_another_writer_makes_the_batch_wait(arango, yaml):
    arango.refused[POINT] = (1200, "write-write conflict")
    async with opened("aggregator", yaml) as node:
        with pytest.raises(NotConnected, match="write-write conflict"):
            await write(node, [record()])


@pytest.mark.parametrize("status", [403, 404, 500, 503])
async def test_a_server_that_cannot_now_makes_the_batch_wait(arango, yaml, status):
    async with opened("aggregator", yaml) as node:
        arango.status = status
        with pytest.raises(NotConnected, match=rf"ArangoDB {arango.url}, database tiro: .*{status}"):
            await write(node, [record()])
        arango.status = None
        assert await write(node, [record()]) == []


async def test_a_wrong_password_is_said_without_showing_it(arango, yaml):
    arango.password = "another"
    with pytest.raises(NotConnected, match="check `auth`") as caught:
        async with opened("aggregator", yaml):
            pass
    assert "secret" not in str(caught.value)


async def test_a_server_that_is_away_is_not_connected(yaml):
    lines = "\n".join("hosts: http://127.0.0.1:9" if line.startswith("hosts") else line for line in yaml.splitlines())
    with pytest.raises(NotConnected, match=r"http://127\.0\.0\.1:9"):
        async with opened("aggregator", lines):
            pass


def test_a_login_in_the_address_is_refused(yaml):
    lines = "\n".join("hosts: http://root:secret@localhost" if line.startswith("hosts") else line for line in yaml.splitlines())
    with pytest.raises(ValidationError, match="hosts"):
        build("aggregator", lines)

"""The files that a user writes, and what is said of those that are wrong."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from karez.config import SETTINGS, Configuration, load
from karez.errors import ConfigError, Severity

BILLION_LAUGHS = "x-a:\n  a0: &a0 [" + ",".join(["lol"] * 9) + "]\n"
BILLION_LAUGHS += "".join(f"  a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12))
BILLION_MERGES = "x-0: &m0 {k: 1}\n" + "".join(f"x-{i}: &m{i}\n  <<: [{','.join([f'*m{i - 1}'] * 9)}]\n" for i in range(1, 12))
COPIED_TEXTS = f"x-a: &a {'$z' * 50_000}\nconnectors: [{{type: rest, x: [{','.join(['*a'] * 5_000)}]}}]\n"
BOMBS = {
    "laughs": BILLION_LAUGHS,
    "merges": BILLION_MERGES,
    "texts": COPIED_TEXTS,
    "brackets": "connectors: " + "[" * 20_000,
    "braces": "connectors: " + "{a: " * 20_000,
    "levels": "".join(f"{' ' * level}a:\n" for level in range(1500)),
    "itself": "connectors: &a [*a]",
    "size": "#" * 5_000_000,
}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def read(text: str, **environ: str) -> Configuration:
    Path("karez.yaml").write_text(text, encoding="utf-8")
    return load(["karez.yaml"], environ)


def options(text: str, **environ: str) -> dict:
    """The options of one connector, `text` being the value of its option `x`."""
    return read(f"connectors:\n  - type: rest\n    x: {text}\n", **environ).entries[0].options


def problems(text: str | bytes, **environ: str) -> list[str]:
    Path("karez.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError) as caught:
        load(["karez.yaml"], environ)
    assert all(problem.place for problem in caught.value.problems)
    return [str(problem) for problem in caught.value.problems]


def test_entries_remember_where_they_and_their_keys_stand():
    configuration = read("aggregators:\n  - type: echo\n    json: false\nconnectors:\n  - type: rest\n    security:\n      type: none\n")
    echo, rest = configuration.entries
    assert (echo.kind, echo.path, str(echo.place)) == ("aggregator", "aggregators[0]", "karez.yaml:2:5")
    assert str(echo.where(("json",))) == "karez.yaml:3:5"
    assert str(rest.where(("security", "type"))) == "karez.yaml:7:7"
    assert str(rest.where(("security", "unknown", 3))) == "karez.yaml:6:5"
    assert rest.options == {"type": "rest", "security": {"type": "none"}}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("12", 12), ("-3", -3), ("0x1F", 31), ("0o17", 15), ("012", 12), ("9223372036854775808", 2**63), ("1.5", 1.5), ("1e3", 1000.0),
        ("~", None), ("null", None), ("true", True), ("False", False), ("no", "no"), ("on", "on"), ("2022-01-01", "2022-01-01"),
        ("12:30", "12:30"), ("'12'", "12"), ("!!str 12", "12"), ("!!int '12'", 12), (".inf", float("inf")), ("ns=2;s=A", "ns=2;s=A"),
    ],
)  # fmt: skip
def test_scalars_are_those_of_yaml_1_2(text, value):
    found = options(text)["x"]
    assert found == value
    assert type(found) is type(value)


def test_several_files_are_joined_in_the_order_given():
    Path("b.yaml").write_text("connectors: [{type: rest}]\n")
    Path("a.yml").write_text("connectors: [{type: opcua}]\naggregators:\n")
    configuration = load(["b.yaml", "a.yml"], {})
    assert configuration.files == ["b.yaml", "a.yml"]
    assert [entry.options["type"] for entry in configuration.entries] == ["rest", "opcua"]


@pytest.mark.parametrize("path", ["config", "./config/*", "config/*.y*ml"])
def test_a_folder_or_a_glob_means_its_yaml_files_in_order(path):
    Path("config/old").mkdir(parents=True)
    for name in ("b.yaml", "a.yml", "README.md", ".hidden.yaml", "old/c.yaml"):
        Path("config", name).write_text(f"connectors: [{{type: {name}}}]\n" if name.endswith("ml") else "")
    assert load([path], {}).files == ["config/a.yml", "config/b.yaml"]


def test_a_file_that_is_named_twice_is_read_once():
    Path("a.yaml").write_text("connectors: [{type: rest}]\n")
    configuration = load(["a.yaml", "./a.yaml"], {})
    assert len(configuration.entries) == 1
    assert configuration.problems[0].severity is Severity.NOTICE


@pytest.mark.parametrize(("named", "there"), [("karez.yaml", "karez.yml"), ("karez.yml", "karez.yaml")])
def test_a_file_with_the_other_suffix_is_read_with_a_notice(named, there):
    Path(there).write_text("connectors: [{type: rest}]\n")
    configuration = load([named], {})
    assert len(configuration.entries) == 1
    assert [str(problem) for problem in configuration.problems] == [f"{there}:1:1: notice: this is read for {named}, which is not there"]


def test_a_folder_without_files_and_a_missing_file_are_errors_with_a_hint():
    Path("config").mkdir()
    Path("config/karez.yaml").write_text("connectors: []\n")
    Path("empty").mkdir()
    with pytest.raises(ConfigError) as caught:
        load(["config/karz.yaml", "nowhere/karez.yaml", "empty", "empty/*"], {})
    text = str(caught.value)
    assert "config/karz.yaml:1:1: error: there is no such file; did you mean config/karez.yaml?" in text
    assert "there is no folder nowhere either" in text
    assert text.count("no *.yaml or *.yml file is there") == 2


def test_all_problems_of_all_files_come_at_once():
    Path("a.yaml").write_text("conectors: []\nconnector: []\n12: 3\nconverters: {type: rename}\naggregators: 5\n")
    Path("b.yaml").write_text("dispatchers:\n  - csv\n  -\n  - 1: 2\n  - type: ${NOWHERE}\n")
    Path("c.yaml").write_text("- type: csv\n")
    Path("d.yaml").write_text("a: b: c\n")
    Path("e.yaml").write_text("# nothing\n")
    with pytest.raises(ConfigError) as caught:
        load(["a.yaml", "b.yaml", "c.yaml", "d.yaml", "e.yaml"], {})
    assert str(caught.value).splitlines() == [
        "a.yaml:1:1: error: unknown key `conectors`; did you mean `connectors`?",
        "a.yaml:2:1: error: unknown key `connector`; did you mean `connectors`?",
        "a.yaml:3:1: error: unknown key `12`; there are dispatchers, connectors, converters, aggregators, and the settings "
        f"{', '.join(SETTINGS)}; begin a key of your own with `x-`",
        "a.yaml:4:1: error: converters: must be a list of mappings, not a mapping; begin each entry with `- `",
        "a.yaml:5:1: error: aggregators: must be a list of mappings, not a number; each entry is a mapping that begins with `- type: ...`",
        "b.yaml:2:5: error: dispatchers[0]: must be a mapping, not a text; an entry begins with `- type: ...`",
        "b.yaml:3:4: error: dispatchers[1]: must be a mapping, not empty; an entry begins with `- type: ...`",
        "b.yaml:4:5: error: dispatchers[2]: the key 1 is not a text; keys are names of options",
        "b.yaml:5:5: error: dispatchers[3].type: variable `NOWHERE` is not set; set it, or write `${NOWHERE:-default}`",
        "c.yaml:1:1: error: the file is a list, not a mapping; its keys are dispatchers, connectors, converters, aggregators",
        "d.yaml:1:5: error: not YAML: mapping values are not allowed here; a text with `: ` in it needs quotes; "
        "otherwise this line is indented too far or too little",
        "e.yaml:1:1: error: the file is empty; it needs one of the keys dispatchers, connectors, converters, aggregators",
    ]


def test_a_key_that_is_given_twice_is_an_error_with_both_places():
    found = problems("connectors:\n  - type: a\n    x: {y: 1, y: 2}\n    type: b\nconnectors: []\n")
    assert found == ["karez.yaml:5:1: error: key `connectors` is given twice; first at karez.yaml:1:1; put both lists under one of them"]
    found = problems("connectors:\n  - type: a\n    x: {y: 1, y: 2}\n    type: b\n")
    assert found == [
        "karez.yaml:4:5: error: connectors[0]: key `type` is given twice; first at karez.yaml:2:5; keep one of them",
        "karez.yaml:3:15: error: connectors[0].x: key `y` is given twice; first at karez.yaml:3:9; keep one of them",
    ]


@pytest.mark.parametrize(
    ("text", "place", "hint"),
    [
        ("connectors:\n\t- type: x", "2:1", "with spaces, not with tabs"),
        ("connectors:\n  - type: a\n   x: 1", "3:4", ""),
        ("connectors: [1, 2", "1:18", "bracket or a comma is missing"),
        ("connectors: [{type: ${X}}]", "1:22", "`${...}` needs quotes"),
        ("connectors:\n  - type: 'a", "2:13", "a quote or a bracket is not closed"),
        ("connectors:\n  - type: @a", "2:11", "put this value in quotes"),
        ('connectors:\n  - file: "C:\\data"', "2:15", "use single quotes"),
        ("connectors: *a", "1:13", "an alias comes after its anchor"),
        ("connectors: []\n---\nconnectors: []", "2:1", "put it in a file of its own"),
        ("connectors: !!python/object:os.system [ls]", "1:13", "${NAME}"),
        ("connectors: [{type: !env X}]", "1:21", "${NAME}"),
        ("connectors: [{type: !!int x}]", "1:21", "this is no `!!int`"),
        ("connectors: [{[a]: x}]", "1:15", "put a text with"),
        ("connectors: [{<<: 5}]", "1:19", "takes a mapping"),
        ("conn\x00", "1:5", "remove it"),
        (b"a: 1\nb: \xff", "2:4", "save it in that encoding"),
    ],
)
def test_what_is_not_yaml_is_an_error_with_line_column_and_hint(text, place, hint):
    (found,) = problems(text)
    assert found.startswith(f"karez.yaml:{place}: error: ")
    assert hint in found


def test_an_unreadable_file_is_an_error(folder):
    Path("karez.yaml").symlink_to("karez.yaml")
    with pytest.raises(ConfigError):
        load(["karez.yaml"], {})


def test_keys_of_the_users_own_hold_anchors_that_entries_use():
    configuration = read(
        "x-rest: &rest\n  base_url: http://${HOST}\n  retry: 2\n.more: 1\n"
        "connectors:\n  - <<: *rest\n    retry: 5\n    type: rest\n  - {<<: [*rest, {timeout: 3}], type: rest}\n",
        HOST="here",
    )
    first, second = (entry.options for entry in configuration.entries)
    assert first == {"retry": 5, "type": "rest", "base_url": "http://here"}
    assert second == {"type": "rest", "base_url": "http://here", "retry": 2, "timeout": 3}
    assert str(configuration.entries[1].where(("retry",))) == "karez.yaml:3:3"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("${PORT}", 4840), ("'${PORT}'", "4840"), ('"${PORT}"', "4840"), ("a${PORT}", "a4840"), ("${env:PORT}", 4840), ("$$", "$"),
        ("$${PORT}", "${PORT}"), ("a $5 bill", "a $5 bill"), ("${NOPE:-7}", 7), ("${NOPE:-}", None), ("'${NOPE:-}'", ""),
        ("${EMPTY:-x}", "x"), ("'${EMPTY}'", ""), ("${FLAG}", True), ("${NOPE:-http://a:1/?b=c}", "http://a:1/?b=c"),
        ("${file:secret}", "s3cret"), ("u:${file:secret}@${PORT}", "u:s3cret@4840"), ("${file:nope:-d}", "d"),
        ("[1, 'a${PORT}']", [1, "a4840"]),
    ],
)  # fmt: skip
def test_values_come_from_the_environment_and_from_files(text, value):
    Path("secret").write_text("s3cret\n")
    assert options(text, PORT="4840", EMPTY="", FLAG="true")["x"] == value


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("${PROT}", "variable `PROT` is not set; did you mean `PORT`?"),
        ("${NOWHERE}", "variable `NOWHERE` is not set; set it, or write `${NOWHERE:-default}`"),
        ("${file:nowhere}", "file `nowhere` cannot be read: No such file or directory"),
        ("${file:}", "file `` cannot be read: Is a directory"),
        ("${fil:x}", "`${fil:...}` is not known; did you mean `file`?"),
        ("${keyring:x}", "`${keyring:...}` is not known; there are `env` and `file`"),
        ("${A:-${B}}", "a `${` is not closed by a `}`; write `$$` for a dollar sign"),
        ("'${'", "a `${` is not closed by a `}`"),
        ("'${a b}'", "`${a b}` names no variable"),
        ("${file:latin}", "file `latin` is not UTF-8"),
        ("${file:large}", "file `large` is larger than 1 MiB"),
    ],
)
def test_a_value_that_cannot_be_had_is_an_error_with_its_place(text, reason):
    Path("latin").write_bytes(b"\xe9")
    Path("large").write_bytes(b"x" * 1_100_000)
    found = problems(f"connectors:\n  - type: rest\n    x: {text}\n", PORT="1", B="2")
    assert found[0].startswith("karez.yaml:3:5: error: connectors[0].x: ")
    assert reason in found[0]


def test_values_from_outside_are_secret_and_defaults_are_not():
    Path("token").write_text("t0ken")
    text = "connectors:\n  - {type: rest, a: '${A}', b: {c: ['x${file:token}']}, d: '${NOPE:-d}', e: plain}\n"
    entry = read(text, A="s3cret").entries[0]
    assert entry.secret == {("a",), ("b", "c", 0)}
    assert "s3cret" not in repr(entry)
    assert "t0ken" not in repr(entry)


def test_the_environment_changes_nothing_that_does_not_ask_for_it():
    assert read("connectors: [{type: rest}]\n", KAREZ_CONNECTORS="[]", KAREZ_TYPE="opcua").entries[0].options == {"type": "rest"}


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_bomb_is_an_error_at_once(bomb):
    start = time.process_time()
    (found,) = problems(BOMBS[bomb])
    # a tracer of coverage slows it down several times
    assert time.process_time() - start < (1 if sys.gettrace() is None else 6)
    assert len(found) < 300


def test_a_bomb_takes_little_memory():
    Path("bomb.yaml").write_text(BILLION_LAUGHS)
    code = (
        "import resource, karez.config as c\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try: c.load(['bomb.yaml'], {})\n"
        "except c.ConfigError: print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    grown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert int(grown) < 64 * 1024


def test_a_file_of_1500_lines_loads_fast():
    text = "connectors:\n" + "".join(f"  - type: rest\n    name: c{index}\n    retry: {index}\n" for index in range(500))
    read(text)
    start = time.process_time()
    assert len(read(text).entries) == 500
    assert time.process_time() - start < (0.6 if sys.gettrace() is None else 6)


def test_the_same_as_windows_writes_it():
    assert options("1\r\n    y: '2'\r")["y"] == "2"
    Path("karez.yaml").write_bytes(b"\xef\xbb\xbfconnectors:\r\n  - type: rest\r\n")
    assert str(load(["karez.yaml"], {}).entries[0].place) == "karez.yaml:2:5"


def dotenv(text: str | bytes, folder: str = ".", mode: int = 0o600) -> None:
    path = Path(folder, ".env")
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    path.chmod(mode)


@pytest.mark.parametrize(
    ("line", "text", "value"),
    [
        ("PORT=4840", "${PORT}", 4840), ("PORT = 4840", "${PORT}", 4840), ("export PORT=4840", "${PORT}", 4840), ("PORT=", "${PORT:-7}", 7),
        ("PORT='48 40' # why", "${PORT}", "48 40"), ("PORT=a#b", "${PORT}", "a#b"), ("PORT=a # b", "${PORT}", "a"),
        ("PORT=a$HOME${NOPE}", "${PORT}", "a$HOME${NOPE}"), ("\ufeffPORT=1", "${PORT}", 1), ("A=1\r\nPORT=2\r\n", "${PORT}", 2),
        ('PORT="a\nb"', "${PORT}", "a\nb"), ("PORT=postgresql://u:p=w@h/d?x=1", "${env:PORT}", "postgresql://u:p=w@h/d?x=1"),
    ],
)  # fmt: skip
def test_variables_come_from_a_file_env_too(line, text, value):
    dotenv(line)
    assert options(text)["x"] == value


def test_the_environment_wins_over_a_file_env_which_never_gets_into_it(monkeypatch):
    dotenv("KAREZ_TEST_A=file\nKAREZ_TEST_B=file\n")
    monkeypatch.setenv("KAREZ_TEST_A", "environment")
    Path("karez.yaml").write_text("connectors: [{type: rest, a: '${KAREZ_TEST_A}', b: '${KAREZ_TEST_B}'}]\n")
    entry = load(["karez.yaml"]).entries[0]
    assert entry.options == {"type": "rest", "a": "environment", "b": "file"}
    assert entry.secret == {("a",), ("b",)}
    assert "KAREZ_TEST_B" not in os.environ


def test_a_file_env_in_this_folder_is_taken_in_place_of_one_beside_the_configuration():
    Path("config").mkdir()
    Path("config/karez.yaml").write_text("connectors: [{type: rest, x: '${A:-none}', y: '${B:-none}'}]\n")
    dotenv("A=beside", "config")
    for path in ("config", "config/karez.yaml", "./config/*"):
        assert load([path], {}).entries[0].options["x"] == "beside"
    dotenv("B=here")
    assert load(["config"], {}).entries[0].options == {"type": "rest", "x": "none", "y": "here"}


def test_a_folder_named_env_is_no_file_env():
    Path(".env").mkdir()
    assert options("${A:-none}")["x"] == "none"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("PORT=1", "variable `NOWHERE` is not set, neither in the environment nor in .env; set it, or write `${NOWHERE:-default}`"),
        ("NOWHER=1", "variable `NOWHERE` is not set, neither in the environment nor in .env; did you mean `NOWHER`?"),
        (
            "\n# why\nNOWHERE=<your_db_url>",
            "variable `NOWHERE` is still the placeholder `<your_db_url>`, in .env, line 3; write there what it",
        ),
    ],
)
def test_a_variable_that_a_file_env_has_not_or_not_yet_is_an_error(text, reason):
    dotenv(text)
    (found,) = problems("connectors:\n  - type: rest\n    url: ${NOWHERE}\n")
    assert found.startswith(f"karez.yaml:3:5: error: connectors[0].url: {reason}")


def test_a_placeholder_is_an_error_also_in_the_environment_and_where_there_is_a_default():
    (found,) = problems("connectors:\n  - type: rest\n    url: ${KEY:-d}\n", KEY="<your_key>")
    assert "variable `KEY` is still the placeholder `<your_key>`, in the environment" in found


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("A=1\n\n'B\nC=2\n", ".env:3:1: warning: this line is no `NAME=value`, and is left out"),
        ("A=1\nB\n", ".env:2:1: warning: this line is no `NAME=value`, and is left out"),
        ("A=0\nB=1\nA=1\n", ".env:3:1: warning: `A` is set twice, first in line 1; this one is taken"),
    ],
)
def test_what_is_wrong_in_a_file_env_is_a_warning_with_its_line(text, said):
    dotenv(text)
    configuration = read("connectors: [{type: rest, x: '${A}'}]\n")
    assert configuration.entries[0].options["x"] == "1"
    (found,) = map(str, configuration.problems)
    assert found.startswith(said)


@pytest.mark.parametrize(("content", "said"), [("A=1".encode("utf-16"), "is not UTF-8"), (b"A=1\n" * 300_000, "is larger than 1 MiB")])
def test_a_file_env_that_cannot_be_read_is_said_beside_the_variable_that_is_not_set(content, said):
    dotenv(content)
    first, second = problems("connectors: [{type: rest, x: '${A}'}]\n")
    assert "variable `A` is not set" in first
    assert f".env:1:1: warning: the file {said}" in second


@pytest.mark.skipif(os.name != "posix", reason="Windows has no such modes")
@pytest.mark.parametrize(
    ("mode", "text", "said"),
    [
        (0o600, "A=1\nAPI_KEY=x", []),
        (0o644, "A=1\nINTERVAL=5\nAPI_KEY=<your_key>", []),
        (
            0o644,
            "A=1\nAPI_KEY=x\nURL=db://u:p@h/d",
            ["notice: every user of this machine may read its secrets: API_KEY, URL; chmod 600 .env"],
        ),
        (0o646, "A=1", ["warning: every user of this machine may change it; chmod 600 .env"]),
    ],
)
def test_a_file_env_that_others_may_change_or_whose_secrets_they_may_read_is_said(mode, text, said):
    dotenv(text, mode=mode)
    assert [str(problem) for problem in read("connectors: [{type: rest, x: '${A}'}]\n").problems] == [f".env:1:1: {one}" for one in said]


def test_a_file_env_that_nobody_asks_is_not_read():
    dotenv(b"\xff", mode=0o666)
    assert read("connectors: [{type: rest, x: '${A:-none}'}]\n", A="1").problems == []

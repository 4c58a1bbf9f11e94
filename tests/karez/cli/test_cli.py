"""The command line as a whole: help, completion, exit codes, and what each generation passes on."""

import os
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from karez.cli.options import DeployOptions
from karez.errors import BusUnreachable, ConfigError, KarezError, Place, Problem

HEAVY = {"pydantic", "nats", "sqlalchemy", "msgspec", "rich", "httpx2", "ruamel", "asyncua", "pymodbus", "karez.roles", "karez.registry"}


def process(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=30, check=False, env={**os.environ, **environment}
    )


def imports(*arguments: str) -> set[str]:
    """The modules that a command imports, and their packages."""
    done = process("-X", "importtime", "-m", "karez", *arguments)
    assert done.returncode == 0
    names = [line.rsplit("|", 1)[1].strip() for line in done.stderr.splitlines() if line.startswith("import time:")]
    assert "typer" in names
    return {*names, *(name.split(".")[0] for name in names)}


def test_help_imports_nothing_heavy() -> None:
    assert not imports("--help") & HEAVY


@pytest.mark.parametrize("arguments", [["deploy", "--help"], ["plugins", "show", "--help"]])
def test_help_of_a_command_imports_nothing_heavy_but_what_typer_reads_options_with(arguments: list[str]) -> None:
    assert not imports(*arguments) & HEAVY - {"pydantic"}


def test_help_lists_the_options_of_the_first_generation(run: Any) -> None:
    lines = run("karez --help").out
    for option in (
        "  -c, --config PATH",
        "  -p, --plugin-directory PATH ",
        "  -a, --nats-addr TEXT ",
        "  -l, --logging-level TEXT ",
        "  -d, --dispatcher",
        "  -n, --connector",
        "  -v, --converter",
        "  -g, --aggregator",
        "  --install-completion [bash|zsh|fish|powershell|pwsh]",
        "  --show-completion [bash|zsh|fish|powershell|pwsh]",
        "  --help                          Show this message and exit.",
    ):
        assert f"\n{option}" in lines
    for default in ("[default: plugins]", "[default: nats://localhost:4222]", "[default: WARNING]"):
        assert default in lines


def test_without_anything_help_is_shown(run: Any) -> None:
    done = run("karez")
    assert done.code == 0
    assert done.out.startswith("Usage: karez [OPTIONS]")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish", "powershell", "pwsh"])
def test_a_completion_script_is_printed_for_every_shell(shell: str) -> None:
    done = process("-m", "karez", "--show-completion", shell)
    assert done.returncode == 0
    assert "_KAREZ_COMPLETE" in done.stdout


def test_a_shell_that_asks_gets_the_commands_completed() -> None:
    done = process("-m", "karez", _KAREZ_COMPLETE="complete_bash", COMP_WORDS="karez pl", COMP_CWORD="1")
    assert set(done.stdout.split()) == {"plugins", "plugin-doc"}


def test_the_version_is_that_of_the_package(run: Any) -> None:
    from importlib.metadata import version

    assert run("karez --version").out == f"karez {version('karez')}\n"


def test_a_mistyped_command_is_suggested(run: Any) -> None:
    done = run("karez depoly")
    assert done.code == 2
    assert "Did you mean 'deploy'?" in done.err


def test_options_before_the_command_are_not_ignored(run: Any) -> None:
    done = run("karez -c config/karez.yaml check")
    assert done.code == 2
    assert "written after it" in done.err


@pytest.fixture
def deployed(monkeypatch: pytest.MonkeyPatch) -> list[DeployOptions]:
    """What `deploy` was asked for."""
    asked: list[DeployOptions] = []
    monkeypatch.setitem(sys.modules, "karez.cli.deploy", SimpleNamespace(run=lambda options: asked.append(options) or 0))
    return asked


def test_the_first_generation_deploys(run: Any, deployed: list[DeployOptions]) -> None:
    assert run("karez -c config/opcua.yaml -c more.yaml -p ../plugins/ -l INFO -d -v").code == 0
    assert deployed == [
        DeployOptions(
            config=["config/opcua.yaml", "more.yaml"],
            plugins=["../plugins/"],
            logging_level="INFO",
            generation=1,
            kinds={"dispatcher", "converter"},
        )
    ]


def test_the_second_generation_deploys(run: Any, deployed: list[DeployOptions]) -> None:
    run("karez deploy")
    run(
        "karez deploy -c a.yaml -p karez/ -a nats://localhost:4222 -g -r '90 day' --workers 3 --bus memory --for '1m 30s' --live"
        " --state-dir state --strict"
    )
    run("karez deploy -b")
    assert deployed == [
        DeployOptions(config=["./config/*"]),
        DeployOptions(
            config=["a.yaml"],
            plugins=["karez/"],
            nats_addr="nats://localhost:4222",
            kinds={"aggregator"},
            rotation="90 day",
            workers=3,
            bus="memory",
            for_seconds=90.0,
            live=True,
            state_dir="state",
            strict=True,
        ),
        DeployOptions(config=["config"], loadbalance=True),
    ]


def test_a_duration_that_is_none_is_said(run: Any) -> None:
    done = run("karez deploy --for soon")
    assert done.code == 2
    assert "--for" in done.err
    assert "is not a duration" in done.err


@pytest.mark.parametrize(
    ("error", "code", "lines"),
    [
        (
            ConfigError(
                [
                    Problem(Place("a.yaml", 3, 5), "connectors[0].conector", "unknown key", "did you mean `connector`?"),
                    Problem(None, "x", "y"),
                ]
            ),
            2,
            "a.yaml:3:5: error: connectors[0].conector: unknown key; did you mean `connector`?\nerror: x: y\n",
        ),
        (BusUnreachable("nothing at nats://localhost:1"), 5, "karez: nothing at nats://localhost:1\n"),
        (KarezError("odd"), 70, "karez: odd\n"),
    ],
)
def test_errors_are_lines_and_exit_codes(run: Any, monkeypatch: pytest.MonkeyPatch, error: Exception, code: int, lines: str) -> None:
    def fail(options: DeployOptions) -> int:
        raise error

    monkeypatch.setitem(sys.modules, "karez.cli.deploy", SimpleNamespace(run=fail))
    assert run("karez deploy") == (code, "", lines)


def test_a_fault_of_karez_shows_a_traceback_without_secrets(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(options: DeployOptions) -> int:
        password = "canary-local"
        raise RuntimeError(f"nats://user:canary-url@host {len(password)}")

    monkeypatch.setitem(sys.modules, "karez.cli.deploy", SimpleNamespace(run=fail))
    done = run("karez deploy")
    assert done.code == 70
    assert "Traceback" in done.err
    assert "RuntimeError: nats://***@host 12" in done.err
    assert "fault in karez" in done.err


@pytest.mark.parametrize(
    ("line", "module", "name", "expected"),
    [
        ("status --json", "status", "run", {"nats_addr": "nats://localhost:4222", "json": True, "points": None, "metrics": False}),
        ("top -a nats://h:1", "top", "run", {"nats_addr": "nats://h:1"}),
        (
            "tap 'karez.>' --count 3",
            "tap",
            "run",
            {"subject": "karez.>", "nats_addr": "nats://localhost:4222", "count": 3, "json": False},
        ),
    ],
)
def test_commands_on_the_bus_are_handed_on(
    run: Any, monkeypatch: pytest.MonkeyPatch, line: str, module: str, name: str, expected: dict[str, Any]
) -> None:
    asked: list[dict[str, Any]] = []
    monkeypatch.setitem(sys.modules, f"karez.cli.{module}", SimpleNamespace(**{name: lambda **given: asked.append(given) or 0}))
    assert run(f"karez {line}").code == 0
    assert asked == [expected]

"""What is in deploy/, as far as it can be looked at without Docker, Windows or systemd: it parses, and Karez understands its commands."""

import re
import shlex
import tomllib
from pathlib import Path

import pytest
import tree_sitter_powershell
import typer
from ruamel.yaml import YAML
from tree_sitter import Language, Node, Parser

from karez.cli.commands import app

ROOT = Path(__file__).parent.parent
COMPOSE = ROOT / "deploy/data_connector/compose.yaml"
STARTUP = ROOT / "deploy/windows/startup.ps1"
DOCKERFILES = sorted(ROOT.glob("deploy/**/Dockerfile"))


def understood(command: list[str]) -> None:
    """Karez has this command with these options; raises what its command line would say."""
    found = typer.main.get_command(app).commands[command[0]]
    found.make_context(command[0], list(command[1:]))


def compose() -> dict:
    """The services of the compose file, with anchors merged and variables as their defaults."""
    text = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", COMPOSE.read_text())
    return YAML(typ="safe", pure=True).load(text)["services"]


def powershell() -> Node:
    return Parser(Language(tree_sitter_powershell.language())).parse(STARTUP.read_bytes()).root_node


def nodes(node: Node):
    yield node
    for child in node.children:
        yield from nodes(child)


@pytest.mark.parametrize("wrong", [["deploy", "--no-such-option"], ["serve", "-c"], ["deploy", "--for"]])
def test_a_command_that_karez_does_not_know_is_found(wrong):
    with pytest.raises(Exception, match=r"(?i)no such option|requires an argument"):
        understood(wrong)


def test_each_profile_has_what_it_needs():
    profiles = {profile: {name for name, one in compose().items() if profile in one["profiles"]} for profile in ("request", "schedule")}
    assert profiles == {"request": {"nats", "request", "collector"}, "schedule": {"nats", "schedule"}}


def test_only_the_profile_schedule_reads_by_itself_and_no_two_dispatchers_share_a_name():
    found = {name: (one["environment"]["DISPATCHER"], one["environment"]["SCHEDULE"]) for name, one in compose().items() if name != "nats"}
    assert found == {"request": ("request", "false"), "collector": ("request", "false"), "schedule": ("schedule", "true")}


@pytest.mark.parametrize("name", compose())
def test_each_container_is_confined_and_watched(name):
    service = compose()[name]
    assert (service["read_only"], service["cap_drop"], service["security_opt"]) == (True, ["ALL"], ["no-new-privileges:true"])
    assert service["healthcheck"]["test"]
    assert service["restart"] == "unless-stopped"
    assert all(volume.endswith(":ro") or volume.startswith("nats:") for volume in service["volumes"])
    if name != "nats":
        assert service["depends_on"] == {"nats": {"condition": "service_healthy"}}
        assert service["env_file"] == ["../../examples/data_connector/.env"]
        understood(service["command"])


def test_what_the_containers_mount_is_there():
    mounted = {volume.split(":")[0] for one in compose().values() for volume in one["volumes"] if volume.startswith(".")}
    assert mounted
    assert all((COMPOSE.parent / path).exists() for path in mounted)


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_an_image_runs_as_a_user_without_rights_and_copies_what_is_there(path):
    lines = [line.split() for line in path.read_text().splitlines()]
    assert [line[1] for line in lines if line[:1] == ["USER"]] == ["karez"]
    copied = [name for line in lines if line[:1] == ["COPY"] for name in line[1:-1]]
    assert [name for name in copied if not (ROOT / name).exists()] == []


def test_the_script_for_windows_is_powershell():
    assert [(node.start_point.row + 1, node.text) for node in nodes(powershell()) if node.is_error or node.is_missing] == []


def test_a_fault_in_a_script_would_be_found():
    broken = Parser(Language(tree_sitter_powershell.language())).parse(
        STARTUP.read_bytes().replace(b"}\n\nfunction Stop-Karez", b"\n\nfunction Stop-Karez")
    )
    assert broken.root_node.has_error


def test_the_script_for_windows_calls_only_what_it_defines_or_windows_has():
    text = STARTUP.read_text()
    defined = set(re.findall(r"^function ([A-Z]\w+-\w+)", text, re.M))
    called = {node.text.decode() for node in nodes(powershell()) if node.type == "command_name" and b"-" in node.text}
    of_windows = {
        "Get-CimInstance", "Get-Command", "Get-Content", "Get-Date", "Get-Service", "Invoke-CimMethod", "Join-Path", "New-Item",
        "New-ItemProperty", "New-Object", "New-Service", "Out-Host", "Out-Null", "Pop-Location", "Push-Location", "Remove-Item",
        "Resolve-Path", "Select-String", "Set-StrictMode", "Start-Service", "Start-Sleep", "Stop-Service", "Test-Path", "ForEach-Object",
        "Write-Debug", "Write-Output", "Write-Verbose",
    }  # fmt: skip
    assert called - of_windows == defined
    # Windows PowerShell reads a file without a byte order mark in the code page of its country
    assert text.isascii()


def test_the_service_for_windows_runs_a_command_that_karez_has():
    line = re.search(r"'-m', 'karez', ('deploy'[^)\n]*)\)", STARTUP.read_text())
    assert line
    command = [part.strip().strip("'") for part in line[1].split(",")]
    understood([*command, "--api"])


def test_windows_and_the_image_install_extras_that_there_are():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    wanted = re.search(r"\$Extras = '([\w,]+)'", STARTUP.read_text())
    assert wanted
    assert set(wanted[1].split(",")) <= set(extras)


def test_the_service_for_systemd_runs_a_command_that_karez_has():
    unit = (ROOT / "deploy/systemd/karez.service").read_text()
    command = shlex.split(next(line for line in unit.splitlines() if line.startswith("ExecStart=")).removeprefix("ExecStart="))
    understood(command[1:])

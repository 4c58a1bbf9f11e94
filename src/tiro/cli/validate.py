"""`tiro validate`: one file of data, or a server that takes data; and the reports that the Karez plugin wrote."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Argument, Option

from tiro.cli import complain

if TYPE_CHECKING:
    from tiro.validate.by_schema import SchemaExpectation
    from tiro.validate.expectation import ScenarioExpectation

PLAIN: dict[str, Any] = {"rich_markup_mode": None, "pretty_exceptions_enable": False, "add_completion": False}

app = typer.Typer(no_args_is_help=True, help="Whether what was collected is what was agreed.", **PLAIN)

SchemaOption = Annotated[str | None, Option("--schema", "-s", metavar="FILE", help="JSON Schema in place of scenario and uses.")]
ReferenceOption = Annotated[str | None, Option("--reference", "-R", metavar="FILE", help="Real assets: exactly these are expected.")]
PathOnlyOption = Annotated[bool, Option("--path-only", help="Look at paths only, not at values.")]


@dataclass(slots=True)
class Agreed:
    """What the data must fit: a scenario and its uses, or a schema."""

    files: list[str]
    schema: str | None
    reference: str | None

    def expectation(self) -> ScenarioExpectation | SchemaExpectation:
        """Read it; raises `InputError`."""
        from tiro.errors import InputError, Problem

        if self.schema is not None:
            if self.files or self.reference:
                raise InputError([Problem(None, "", "a schema stands in place of scenario, uses and reference; leave these out")])
            from tiro.validate.by_schema import SchemaExpectation

            return SchemaExpectation.load(self.schema)
        if len(self.files) < 2:
            raise InputError([Problem(None, "", "name a scenario and at least one use, or a JSON Schema with --schema")])
        from tiro.scenario import Scenario
        from tiro.validate.expectation import ScenarioExpectation

        return ScenarioExpectation(Scenario.load(self.files[0], *self.files[1:], reference=self.reference))


@app.command("test")
def _test(
    files: Annotated[list[str], Argument(metavar="[SCENARIO USES...] DATA.json", help="Scenario and uses; last the data.")],
    schema: SchemaOption = None,
    reference: ReferenceOption = None,
    path_only: PathOnlyOption = False,
) -> None:
    """Whether a file of data is complete and right; leaves with 1 if it is not."""
    from tiro.cli.output import as_json
    from tiro.errors import InputError, Problem
    from tiro.validate import document

    if schema is None and files[-1].endswith((".yaml", ".yml")):
        raise InputError(
            [Problem(None, files[-1], "the last argument is the file of data, as JSON", "add one, as from `tiro schema example`")]
        )
    expectation = Agreed(files[:-1], schema, reference).expectation()
    findings = document.check(expectation, document.load(files[-1]), path_only)
    complain(*(f"notice: {notice}" for notice in findings.notices))
    if not findings.errors:
        print("Validation succeeded!")
        return
    print("Validation failed!")
    print(as_json([asdict(error) for error in findings.errors]))
    raise typer.Exit(1)


@app.command("serve")
def _serve(
    files: Annotated[list[str] | None, Argument(metavar="[SCENARIO USES...]", help="Scenario and uses.")] = None,
    host: Annotated[str, Option("--host", "-h", help="Address to listen at.")] = "127.0.0.1",
    port: Annotated[int, Option("--port", "-p", help="Port to listen at; 0 takes a free one.")] = 8001,
    log_size: Annotated[int, Option("--log-size", "-l", min=1, max=100_000, help="Reports that are kept.")] = 10,
    retention: Annotated[float, Option("--retention", "-r", min=0.001, help="Seconds of a window.")] = 60.0,
    schema: SchemaOption = None,
    reference: ReferenceOption = None,
    path_only: PathOnlyOption = False,
) -> None:
    """Take records over HTTP, and say of each window whether it was valid."""
    from tiro.errors import InputError, Problem
    from tiro.validate import Settings, Validator

    try:
        from tiro.server import running
        from tiro.server.validation import application
    except ModuleNotFoundError as error:
        hint = "pip install 'karez[tiro]'"
        raise InputError([Problem(None, "", f"the web server is not installed: {error}", hint)]) from None
    validator = Validator(Agreed(files or [], schema, reference).expectation(), Settings(retention=retention, path_only=path_only))
    app = application(validator, log_size)
    with running.listen(host, port) as listening:
        url = running.address(listening)
        print(f"validating at {url}: POST {url}/points/PATH, GET {url}/results; more on {url}/docs", flush=True)
        running.server(app).run([listening])


@app.command("history")
def _history(
    report_file: Annotated[str, Argument(metavar="REPORT_FILE", help="The `report_file` of a validation in Karez.")],
    last: Annotated[int | None, Option("--last", "-n", min=1, help="Only so many windows, the newest.")] = None,
    invalid: Annotated[bool, Option("--invalid", "-i", help="Only windows that were not valid.")] = False,
    use: Annotated[str | None, Option("--use", "-u", help="Only windows in which this use did not get what it needs.")] = None,
    json: Annotated[bool, Option("--json", help="The reports as they are, a line each.")] = False,
) -> None:
    """Show what a validation in Karez reported."""
    from tiro.validate import journal
    from tiro.validate.report import render

    found = journal.select(Path(report_file), last, invalid, use)
    if json:
        for line, _ in found:
            print(line)
    else:
        print("\n\n".join(render(report) for _, report in found) if found else "no such windows")

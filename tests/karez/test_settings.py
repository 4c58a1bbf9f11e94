"""The top-level keys of a configuration that are no lists: read, joined over files, and complained about with their place."""

from collections.abc import Callable
from pathlib import Path

import pytest

from karez.config import load
from karez.errors import ConfigError
from karez.pipeline import Pipeline
from karez.registry import Registry
from karez.settings import Settings

ROLES = "aggregators:\n  - type: echo\n"


def read(tmp_path: Path, *texts: str, **environ: str) -> Settings:
    files = [tmp_path / f"{number}.yaml" for number in range(len(texts))]
    for file, text in zip(files, texts, strict=True):
        file.write_text(text)
    return Pipeline.build(load(files, environ), Registry()).settings


def complaints(tmp_path: Path, *texts: str, **environ: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, *texts, **environ)
    return [str(problem).removeprefix(f"{tmp_path}/") for problem in caught.value.problems if problem.severity == "error"]


def test_without_settings_the_defaults_hold(tmp_path: Path) -> None:
    settings = read(tmp_path, ROLES)
    assert (settings.delivery, settings.durability, settings.manage_streams, settings.monitor) == ("at_least_once", "balanced", None, None)
    assert settings.start_deadline == 60.0


def test_settings_are_read_from_whichever_file_has_them(tmp_path: Path) -> None:
    settings = read(
        tmp_path, ROLES + "durability: ${D}\n", "startup: {deadline: 2m}\ndurability: strict\nmanage_streams: false\n", D="strict"
    )
    assert (settings.durability, settings.start_deadline, settings.manage_streams) == ("strict", 120.0, False)


def test_a_start_that_tries_for_ever_has_no_deadline(tmp_path: Path) -> None:
    assert read(tmp_path, ROLES + "startup: {broker: retry}\n").start_deadline == float("inf")


def test_two_files_that_set_different_values_are_named_both(tmp_path: Path) -> None:
    found = complaints(tmp_path, ROLES + "durability: strict\n", "durability: balanced\n")
    assert found == [
        f"1.yaml:1:1: error: durability: is set to another value at {tmp_path}/0.yaml:3:1; all files make one configuration: set it once"
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("durabilty: strict", "0.yaml:3:1: error: unknown key `durabilty`; did you mean `durability`?"),
        (
            "durability: stict",
            "0.yaml:3:1: error: durability: `stict` is none of balanced, strict; did you mean `strict`?",
        ),
        ("startup: {brokr: wait}", "0.yaml:3:11: error: startup: unknown key `brokr`; did you mean `broker`?"),
        ("startup: {deadline: 0}", "0.yaml:3:11: error: startup.deadline: must be greater than 0, not 0"),
        ("startup: wait", "0.yaml:3:1: error: startup: must be a mapping, not the text `wait`"),
        ("manage_streams: 7", "0.yaml:3:1: error: manage_streams: must be true or false, not 7"),
        ("monitor: 127.0.0.1", r"0.yaml:3:1: error: monitor: must match ^https?://[^\s/]+/?$, not the text `127.0.0.1`"),
        ("delivery: ${NOWHERE}", "0.yaml:3:1: error: delivery: variable `NOWHERE` is not set; set it, or write `${NOWHERE:-default}`"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(tmp_path: Path, text: str, said: str) -> None:
    assert complaints(tmp_path, f"{ROLES}{text}\n") == [said]


def test_the_schema_for_editors_knows_the_settings(pipeline: Callable[..., Pipeline]) -> None:
    known = Pipeline.schema(Registry())["properties"]
    assert {"delivery", "durability", "startup", "manage_streams", "monitor"} <= known.keys()
    assert known["startup"]["properties"].keys() == {"broker", "deadline"}

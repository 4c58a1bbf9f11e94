"""The scenario, uses and reference that a plugin is told of: read when the configuration is, so that `karez check` finds their faults."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, FilePath, PrivateAttr, model_validator

from tiro.errors import InputError
from tiro.reference import Reference
from tiro.scenario import Scenario

Stamp = tuple[tuple[int, int, int], ...]


def _split(value: Any) -> Any:
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


Uses = Annotated[list[FilePath], BeforeValidator(_split), Field(min_length=1)]
"""Files of uses: a list, or a text with commas."""


class ScenarioOptions(BaseModel):
    """The options of a plugin that needs a scenario."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    scenario: FilePath
    """File of the scenario: which assets there are."""
    uses: Uses
    """Files of the uses, as a list or a text with commas: which data points are needed."""
    reference: FilePath | None = None
    """File of the reference: the real names of the assets, and the uuids of their data points."""
    _read: Scenario = PrivateAttr()

    @model_validator(mode="after")
    def _can_be_read(self) -> ScenarioOptions:
        self._read = self.load()
        return self

    @property
    def as_read(self) -> Scenario:
        """The scenario as it was when the configuration was read."""
        return self._read

    def load(self, seed: int = 0) -> Scenario:
        """Read the files, unless they are as they were; raises `ValueError` with all that is wrong with them."""
        try:
            return _load(self.scenario, tuple(self.uses), self.reference, seed, stamp(self.files()))
        except InputError as error:
            raise ValueError("\n".join(("is wrong:", *(f"  {problem}" for problem in error.problems)))) from None

    def files(self) -> list[Path]:
        """All files that are read."""
        return [self.scenario, *self.uses, *([self.reference] if self.reference else [])]


@lru_cache(maxsize=4)
def _load(scenario: Path, uses: tuple[Path, ...], reference: Path | None, seed: int, _stamp: Stamp) -> Scenario:
    return Scenario.load(scenario, *uses, seed=seed, reference=reference)


def stamp(files: Iterable[Path]) -> Stamp:
    """What changes when one of the files does."""
    return tuple((status.st_mtime_ns, status.st_size, status.st_ino) for status in map(Path.stat, files))


def load_reference(file: Path) -> Reference:
    """Read a reference; raises `ValueError` with all that is wrong with it."""
    try:
        return Reference.load(file)
    except InputError as error:
        raise ValueError("\n".join(("is wrong:", *(f"  {problem}" for problem in error.problems)))) from None


def paths_by_uuid(scenario: Scenario) -> dict[str, str]:
    """The path, with its kind, of each uuid whose data point a use needs."""
    uuids = scenario.reference.uuids if scenario.reference else {}
    return {uuid: path for uuid, plain in uuids.items() if (path := scenario.with_kind(plain))}

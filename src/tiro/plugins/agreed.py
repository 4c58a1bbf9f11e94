"""What a validating plugin is told: a scenario and its uses, or a JSON Schema, and how strict it is; read when the configuration is."""

from __future__ import annotations

from collections.abc import Callable
from datetime import tzinfo
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, FilePath, PrivateAttr, model_validator

from karez import Duration, Timezone, find_zone
from tiro.errors import InputError
from tiro.plugins.inputs import Uses
from tiro.scenario import Scenario
from tiro.validate.by_schema import SchemaExpectation
from tiro.validate.expectation import ScenarioExpectation

Expectation = ScenarioExpectation | SchemaExpectation


class AgreedOptions(BaseModel):
    """The options of a plugin that validates."""

    model_config = ConfigDict(use_attribute_docstrings=True, arbitrary_types_allowed=True)

    scenario: FilePath | None = None
    """File of the scenario: which assets there are."""
    uses: Uses | None = None
    """Files of the uses, as a list or a text with commas: which data points are needed, and by whom."""
    schema_: FilePath | None = Field(default=None, alias="schema")
    """File with a JSON Schema, in place of scenario and uses."""
    reference: FilePath | None = None
    """File of the reference: exactly its assets are expected, in place of those that were seen."""
    all_children: bool = True
    """Whether each asset must have a child of every type that the uses need there."""
    path_only: bool = False
    """Whether only paths count: records need no value, and values are not looked at."""
    stale_after: Annotated[Duration, Field(ge=0)] | None = None
    """Age of a timestamp from which a data point counts as stale; 0 for never."""
    timezone: Timezone = Field(default="UTC", validate_default=True)
    """Zone of times that name none."""
    tz_infos: dict[str, str] = {}
    """What the zone abbreviations at the end of a time mean: abbreviation to IANA name."""
    _make: Callable[[], Expectation] = PrivateAttr()

    @model_validator(mode="after")
    def _can_be_read(self) -> AgreedOptions:
        if (self.schema_ is None) == (self.scenario is None):
            raise ValueError("name a `scenario` and its `uses`, or a `schema` in place of both")
        if self.schema_ is not None and (self.uses or self.reference):
            raise ValueError("`uses` and `reference` belong to a `scenario`; a `schema` stands in place of them")
        if self.scenario is not None and not self.uses:
            raise ValueError("`uses` is missing: which data points of the scenario are needed")
        self.zones()
        self._make = self._read()
        return self

    def expectation(self) -> Expectation:
        """A new expectation, which has seen nothing yet."""
        return self._make()

    def zones(self) -> dict[str, tzinfo]:
        """The zones of `tz_infos`; raises `ValueError` for one that does not exist."""
        return {abbreviation: find_zone(name) for abbreviation, name in self.tz_infos.items()}

    def _read(self) -> Callable[[], Expectation]:
        try:
            if self.schema_ is not None:
                schema = self.schema_
                SchemaExpectation.load(schema)
                return lambda: SchemaExpectation.load(schema)
            assert self.scenario is not None
            scenario = Scenario.load(self.scenario, *(self.uses or ()), reference=self.reference)
        except InputError as error:
            raise ValueError("\n".join(("is wrong:", *(f"  {problem}" for problem in error.problems)))) from None
        all_children = self.all_children
        return lambda: ScenarioExpectation(scenario, all_children)

"""First versions of a scenario, a use, a reference and a library, drafted from a snapshot of a real system.

A snapshot is a CSV file with the columns `data_point`, `asset`, `asset_type`, `parent_asset`, `value` and, if there is one, `uuid`.
"""

from __future__ import annotations

import csv
import keyword
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from tiro.errors import InputError, Place, Problem, Severity, did_you_mean
from tiro.path import KINDS, SEPARATOR
from tiro.reference import POINTS
from tiro.tree import id_fault

COLUMNS = ("data_point", "asset", "asset_type", "parent_asset", "value")


@dataclass(slots=True, eq=False)
class SnapshotAsset:
    """An asset of a snapshot, with the texts that its data points had."""

    id: str
    type: str
    parent_name: str
    line: int
    points: dict[str, list[str]] = field(default_factory=dict)
    uuids: dict[str, str] = field(default_factory=dict)
    parent: SnapshotAsset | None = None
    children: list[SnapshotAsset] = field(default_factory=list)

    @property
    def path(self) -> str:
        """`DataHall.data_hall.CRAC.crac_1`."""
        own = f"{self.type}{SEPARATOR}{self.id}"
        return f"{self.parent.path}{SEPARATOR}{own}" if self.parent else own

    @property
    def type_path(self) -> str:
        """`DataHall.CRAC`."""
        return f"{self.parent.type_path}{SEPARATOR}{self.type}" if self.parent else self.type


class Snapshot:
    """The assets of a snapshot, as a tree; `notices` say what was read in another way than it is written."""

    def __init__(self, file: Path | str) -> None:
        self.file = str(file)
        self.notices: list[Problem] = []
        self._problems: list[Problem] = []
        self.assets: dict[str, SnapshotAsset] = {}
        for line, row in self._rows(Path(file)):
            self._add(line, row)
        for asset in self.assets.values():
            self._link(asset)
        if not self.assets and not self._problems:
            self._problem(1, "the snapshot has no rows")
        if self._problems:
            raise InputError(self._problems)
        self.top = [asset for asset in self.assets.values() if asset.parent is None]

    def _problem(self, line: int, reason: str, suggestion: str | None = None) -> None:
        self._problems.append(Problem(Place(self.file, line), "", reason, suggestion))

    def _rows(self, file: Path) -> Iterator[tuple[int, dict[str, str]]]:
        try:
            text = file.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            raise InputError([Problem(Place(self.file), "", f"the file cannot be read: {reason}")]) from None
        reader = csv.DictReader(StringIO(text, newline=""), restval="", restkey="")
        given = [name.strip() for name in reader.fieldnames or ()]
        for missing in [name for name in COLUMNS if name not in given]:
            self._problem(1, f"there is no column `{missing}`", did_you_mean(missing, given, f"the columns are {', '.join(COLUMNS)}, uuid"))
        if self._problems:
            raise InputError(self._problems)
        reader.fieldnames = given
        for row in reader:
            yield reader.line_num, {name: value.strip() for name, value in row.items() if name}

    def _add(self, line: int, row: dict[str, str]) -> None:
        name, type_ = row["asset"], _type_name(row["asset_type"])
        if not name or not type_ or type_ in KINDS:
            self._problem(line, f"the row has no {'asset' if not name else 'usable asset_type'}")
            return
        asset = self.assets.get(name)
        if asset is None:
            asset = self.assets[name] = SnapshotAsset(self._id(name, line), type_, row["parent_asset"], line)
        for column, before, now in (("asset_type", asset.type, type_), ("parent_asset", asset.parent_name, row["parent_asset"])):
            if before != now:
                self._problem(line, f"the {column} of `{name}` is `{now}` here, and `{before}` in line {asset.line}")
        point = _type_name(row["data_point"])
        if point:
            asset.points.setdefault(point, []).append(row["value"])
            asset.uuids[point] = row.get("uuid") or f"{name}{SEPARATOR}{point}"

    def _id(self, name: str, line: int) -> str:
        if id_fault(name) is None:
            return name
        one = "".join(char for char in name.replace(SEPARATOR, "_") if char.isprintable())
        reason = f"the asset `{name}` becomes `{one}`, as dots separate the names of a path"
        self.notices.append(Problem(Place(self.file, line), "", reason, severity=Severity.NOTICE))
        return one

    def _link(self, asset: SnapshotAsset) -> None:
        if not asset.parent_name:
            return
        parent = self.assets.get(asset.parent_name)
        if parent is None:
            hint = did_you_mean(asset.parent_name, self.assets, "give it a row of its own; its data_point may be empty")
            self._problem(asset.line, f"the parent_asset `{asset.parent_name}` is no asset of the snapshot", hint)
            return
        above: SnapshotAsset | None = parent
        while above is not None:
            if above is asset:
                self._problem(asset.line, f"`{asset.id}` is its own parent, or that of one of its parents")
                return
            above = above.parent
        asset.parent = parent
        parent.children.append(asset)


def scenario(snapshot: Snapshot, library: str | None = None) -> dict[str, Any]:
    """The scenario; `library` is the path of an asset library."""
    drafted: dict[str, Any] = {}
    if library:
        folder, _, name = library.replace("\\", "/").removesuffix(".py").rpartition("/")
        drafted["$asset_library_name"] = name
        if folder:
            drafted["$asset_library_path"] = folder
    return drafted | _types([snapshot.top])


def _types(families: list[list[SnapshotAsset]]) -> dict[str, Any]:
    """The types among the children of all assets of one type, with how many of them an asset has."""
    drafted: dict[str, Any] = {}
    for type_ in dict.fromkeys(asset.type for family in families for asset in family):
        counts = [sum(asset.type == type_ for asset in family) for family in families]
        low, high = min(counts), max(counts)
        below = [asset.children for family in families for asset in family if asset.type == type_]
        drafted[type_] = {"$number": low if low == high else f"{low}-{high}", "$type": type_, **_types(below)}
    return drafted


def uses(snapshot: Snapshot) -> list[Any]:
    """A use that needs everything; each consumer deletes what it does not need."""
    return _needs(snapshot.top)


def _needs(assets: list[SnapshotAsset]) -> list[Any]:
    needs: dict[str, Any] = {}
    for type_ in {asset.type for asset in assets}:
        same = [asset for asset in assets if asset.type == type_]
        inner: dict[str, Any] = {name: name for asset in same for name in asset.points}
        inner |= {next(iter(need)): need for need in _needs([child for asset in same for child in asset.children])}
        needs[type_] = {type_: [inner[name] for name in sorted(inner)]}
    return [needs[type_] for type_ in sorted(needs)]


def reference(snapshot: Snapshot) -> dict[str, Any]:
    """The reference: real assets, ranges of values, uuids."""
    ranges: dict[str, tuple[float, float]] = {}
    texts: set[str] = set()
    uuids: dict[str, str] = {}
    for asset in snapshot.assets.values():
        for name, values in asset.points.items():
            key = f"{asset.type_path}{SEPARATOR}{name}"
            uuids[asset.uuids[name]] = f"{asset.path}{SEPARATOR}{name}"
            numbers = [_number(value) for value in values if value]
            known = [number for number in numbers if number is not None]
            if len(known) < len(numbers):
                texts.add(key)
            elif known:
                low, high = ranges.get(key, (math.inf, -math.inf))
                ranges[key] = (min(low, *known), max(high, *known))
    value_range = {key: {"max": ranges[key][1], "min": ranges[key][0]} for key in sorted(ranges) if key not in texts}
    return {"tree": _tree(snapshot.top), "uuid_map": dict(sorted(uuids.items())), "value_range": value_range}


def _tree(assets: list[SnapshotAsset]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for asset in assets:
        own: dict[str, Any] = {POINTS: list(asset.points)} if asset.points else {}
        tree.setdefault(asset.type, {})[asset.id] = own | _tree(asset.children)
    return tree


def library(snapshot: Snapshot) -> str:
    """An asset library with all types and data points; units and ranges are for its owner to add."""
    types: dict[str, dict[str, list[str]]] = {}
    for asset in snapshot.assets.values():
        points = types.setdefault(asset.type, {})
        for name, values in asset.points.items():
            points.setdefault(name, []).extend(value for value in values if value)
    lines = [f'"""Asset types drafted from {Path(snapshot.file).name}: add units, and ranges as confloat(ge=..., le=...)."""', ""]
    lines += ["from tiro.core import Entity", "from tiro.core.model import Attribute, Telemetry"]
    for type_ in sorted(types):
        lines += ["", "", f"class {type_}(Entity):", f'    """{type_}."""']
        lines += ["", *(_declaration(name, values) for name, values in sorted(types[type_].items()))] if types[type_] else []
    return "\n".join([*lines, ""])


def _declaration(name: str, values: list[str]) -> str:
    numbers = [number for number in map(_number, values) if number is not None]
    if values and len(numbers) == len(values):
        return f"    {name} = Telemetry(float)  # seen: {min(numbers):g} to {max(numbers):g}"
    return f"    {name} = Attribute(str)"


def to_yaml(value: Any) -> str:
    """The text of a file."""
    yaml = YAML()
    yaml.width = 140
    text = StringIO()
    yaml.dump(value, text)
    return text.getvalue()


def _type_name(text: str) -> str:
    """`Supply Temperature` → `SupplyTemperature`: what can be the name of a class or of its attribute."""
    name = re.sub(r"\W", "", text)
    return f"_{name}" if name[:1].isdigit() or keyword.iskeyword(name) else name


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None

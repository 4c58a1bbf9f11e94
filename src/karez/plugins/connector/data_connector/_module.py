"""Loads a user's module with the package that it is part of, and calls the functions that the original Data Connector calls.

    module = load(Path("src/utils.py"))
    latest = latest_run_time(module, zone)        # of `get_latest_run_time`, aware, or None
    store_run_time(module, moment, zone)          # by `update_latest_run_time`

All of these may wait for a database, so they belong into a thread; one call at a time, as the original's worker does it.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import sys
import threading
import typing
from collections.abc import Callable
from datetime import datetime, tzinfo
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

from karez import PluginError, suggest
from karez.plugins.connector._exact import local_time, to_utc

BUSY = threading.RLock()
"""Held while a function of a user's module runs: such modules share sessions between their functions."""


def load(path: Path) -> ModuleType:
    """The module in a file; its relative imports are of the file's folder, and no name of another module is taken.

    The same file gives the same module. Raises `PluginError` that says what is missing.
    """
    file = path.expanduser().resolve()
    if not file.is_file():
        nearest = suggest(file.name, [one.name for one in file.parent.glob("*.py")]) if file.parent.is_dir() else None
        hint = f"; did you mean `{nearest}`?" if nearest else ""
        raise PluginError(f"there is no file {path}{hint}; `module` is the file with `fetch_helper`, as in `src/utils.py`")
    package = f"karez_data_connector_{hashlib.sha256(str(file.parent).encode()).hexdigest()[:16]}"
    with BUSY:
        known = set(sys.modules)
        try:
            if package not in sys.modules:
                _load_package(package, file.parent)
            return importlib.import_module(f"{package}.{file.stem}")
        except (Exception, SystemExit) as error:
            # half of it must not stay: the next attempt begins anew
            for name in set(sys.modules) - known:
                if name.split(".")[0] == package:
                    del sys.modules[name]
            raise PluginError(f"{path} cannot be imported: {type(error).__name__}: {error}{_remedy(error, file)}") from error


def _load_package(name: str, folder: Path) -> None:
    init = folder / "__init__.py"
    if init.is_file():
        spec = importlib.util.spec_from_file_location(name, init, submodule_search_locations=[str(folder)])
    else:
        spec = ModuleSpec(name, None, is_package=True)
        spec.submodule_search_locations = [str(folder)]
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    importlib.invalidate_caches()
    if spec.loader is not None:
        spec.loader.exec_module(module)


def _remedy(error: BaseException, file: Path) -> str:
    if not isinstance(error, ModuleNotFoundError) or not error.name:
        return ""
    first = error.name.split(".")[0]
    if first == file.parent.name or (file.parent / f"{first}.py").exists():
        return f"; import what is beside it by a dot, as in `from .db import get_db`, or start karez with PYTHONPATH={file.parent.parent}"
    return f"; install `{first}` beside Karez"


def function(module: ModuleType, name: str) -> Callable[..., Any]:
    """A function of a user's module; raises `PluginError` that says how it is to be written."""
    found = getattr(module, name, None)
    if callable(found):
        return typing.cast(Callable[..., Any], found)
    nearest = suggest(name, [key for key, value in vars(module).items() if inspect.isfunction(value)])
    hint = f"; did you mean `{nearest}`?" if nearest else ""
    raise PluginError(f"{module.__file__} has no function `{name}`{hint}; write `def {_SHAPES[name]}`")


_SHAPES = {
    "fetch_helper": "fetch_helper(start_time, end_time)",
    "get_latest_run_time": "get_latest_run_time()",
    "update_latest_run_time": "update_latest_run_time(timestamp)",
}


def as_argument(called: Callable[..., Any], place: int, value: datetime, otherwise: type) -> Any:
    """A time as the parameter at this place is annotated, as a datetime or a text in ISO 8601, and `otherwise` as that one of the two."""
    wanted = dict(enumerate(_annotations(called))).get(place)
    return value.isoformat() if (wanted if wanted in (str, datetime) else otherwise) is str else value


def as_told(moment: datetime, zone: tzinfo, with_offset: bool) -> datetime:
    """A moment as the module is told it: in its zone, without an offset unless that is wanted."""
    return moment.astimezone(zone) if with_offset else local_time(moment, zone)


def _annotations(called: Callable[..., Any]) -> list[Any]:
    try:
        hints = typing.get_type_hints(called)
    except Exception:  # a name that only a type checker knows
        hints = dict(getattr(called, "__annotations__", {}))
    try:
        names = list(inspect.signature(called).parameters)
    except (TypeError, ValueError):
        return []
    return [datetime if hints.get(name) in (datetime, "datetime", "datetime.datetime") else hints.get(name) for name in names]


def latest_run_time(module: ModuleType, zone: tzinfo) -> datetime | None:
    """What `get_latest_run_time` says, in UTC: a datetime, a text, or an object with a `timestamp`; none if there is none yet."""
    with BUSY:
        value = function(module, "get_latest_run_time")()
        if value is not None and not isinstance(value, datetime | str):
            value = getattr(value, "timestamp", value)
        if value is None:
            return None
        if isinstance(value, str):
            value = datetime.fromisoformat(value)
        if not isinstance(value, datetime):
            gave = f"`get_latest_run_time` of {module.__file__} gave {type(value).__name__}"
            raise PluginError(f"{gave}; let it return a datetime, or an object with `timestamp`")
        return to_utc(value, zone)


def store_run_time(module: ModuleType, moment: datetime, zone: tzinfo, with_offset: bool = False) -> None:
    """Give a moment to `update_latest_run_time`: a datetime in `zone`, without an offset unless told otherwise."""
    with BUSY:
        called = function(module, "update_latest_run_time")
        called(as_argument(called, 0, as_told(moment, zone, with_offset), datetime))

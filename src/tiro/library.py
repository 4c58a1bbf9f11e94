"""Finds asset libraries: the bundled one, an installed package, or Python files beside the scenario.

A library is Python, and loading it runs it: name only libraries that you trust.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from tiro.errors import InputError, Place, Problem, did_you_mean
from tiro.model import Entity

BUNDLED = "tiro.assets"
# a library in a folder takes the place of a module of its name that is loaded, and these must stay
_RESERVED = {*sys.stdlib_module_names, "tiro", "karez", "pydantic"}


class Library:
    """The asset types of one library, by the names that `$type` uses: `CRAC`, or `cooling.CRAC` for one in a module of a package.

    `places` are the folders in which `name` is looked for, the first that has it counts; then it may be an installed package.
    """

    def __init__(self, name: str = BUNDLED, places: tuple[Path, ...] = (), named_at: Place | None = None) -> None:
        self.name = name
        self.named_at = named_at
        is_ours = name.partition(".")[0] not in _RESERVED
        self.folder = next((place.resolve() for place in places if is_ours and _has(place, name)), None)
        self._places = places

    def entity(self, type_name: str) -> type[Entity]:
        """The asset type of this name; raises `InputError`."""
        module_name, _, class_name = type_name.rpartition(".")
        module = self._module(module_name)
        found = getattr(module, class_name, None)
        if isinstance(found, type) and issubclass(found, Entity) and found is not Entity:
            return found
        there = did_you_mean(class_name, self.types(module), f"it has: {', '.join(self.types(module)) or 'no asset types'}")
        raise InputError([Problem(None, "", f"the asset library `{module.__name__}` has no asset type `{class_name}`", there)])

    def types(self, module: ModuleType | None = None) -> dict[str, type[Entity]]:
        """All asset types of the library, or of one of its modules, by name."""
        module = module or self._module("")
        return {
            name: value
            for name, value in vars(module).items()
            if isinstance(value, type) and issubclass(value, Entity) and value is not Entity and not name.startswith("_")
        }

    def _module(self, inner: str) -> ModuleType:
        name = f"{self.name}.{inner}" if inner else self.name
        _forget_other(self.name.partition(".")[0], self.folder)
        if self.folder is None and not _is_installed(name):
            raise InputError([self._not_found(name)])
        with _first_on_path(self.folder):
            try:
                return importlib.import_module(name)
            except Exception as error:
                raise InputError([self._broken(name, error)]) from error

    def _not_found(self, name: str) -> Problem:
        looked = ", ".join(dict.fromkeys(str(place) for place in self._places)) or "the installed packages"
        files = [file.stem for place in self._places if place.is_dir() for file in place.glob("*.py")]
        otherwise = "set `$asset_library_path` to its folder, or leave both out to use the bundled library"
        hint = did_you_mean(self.name, files, otherwise)
        return Problem(self.named_at, "$asset_library_name", f"there is no asset library `{name}`; looked in {looked}", hint)

    def _broken(self, name: str, error: Exception) -> Problem:
        if isinstance(error, SyntaxError) and error.filename:
            return Problem(Place(error.filename, error.lineno or 1, error.offset or 1), "", f"not Python: {error.msg}")
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if self._owns(frame.filename)]
        place = Place(frames[-1].filename, frames[-1].lineno or 1, 1) if frames else self.named_at
        hint = None
        if isinstance(error, ModuleNotFoundError) and error.name:
            hint = f"install it: pip install {error.name.partition('.')[0]}"
            if error.name.startswith(self.name):
                hint = "the part of `$type` before the last dot is a module of the library"
        reason = " ".join(str(error).split()) or type(error).__name__
        return Problem(place, "", f"the asset library `{name}` cannot be loaded: {reason}", hint)

    def _owns(self, file: str) -> bool:
        return self.folder is not None and Path(file).is_relative_to(self.folder)


def _has(place: Path, name: str) -> bool:
    path = place.joinpath(*name.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()


def _is_installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


@contextmanager
def _first_on_path(folder: Path | None) -> Iterator[None]:
    if folder is None:
        yield
        return
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(str(folder))


_folders: dict[str, Path] = {}
"""From which folder each library was loaded, if not as an installed package."""


def _forget_other(top: str, folder: Path | None) -> None:
    """Forget a module of the same name from elsewhere, so that two scenarios of one process can have their own libraries."""
    if folder is None and top not in _folders:
        return
    if folder is not None and top in sys.modules and folder == _folders.get(top):
        return
    for name in [name for name in sys.modules if name == top or name.startswith(f"{top}.")]:
        del sys.modules[name]
    _folders.pop(top, None)
    if folder is not None:
        _folders[top] = folder

"""Finds plugins: built-ins, entry points of installed packages, and `<folder>/<kind>/<type>.py` of the user's folders.

Later ones override earlier ones of the same kind and type: built-ins, entry points, then the folders in the order given.
Nothing is imported before it is used; a listing reads the docstring only.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
import inspect
import os
import re
import stat
import sys
import traceback
import typing
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from importlib.machinery import SourceFileLoader
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import CodeType, ModuleType

from karez.errors import PluginError
from karez.options import suggest
from karez.roles import KINDS, Config, Role

RoleClass = type[Role[typing.Any]]
ConfigClass = type[Config]

_TYPE = re.compile(r"^[a-z][a-z0-9_]*$")
_BUILT_IN = Path(__file__).parent / "plugins"
_EXTRAS = {
    "asyncua": "opcua", "pymodbus": "modbus", "sqlalchemy": "sql", "aiosqlite": "sql", "asyncpg": "postgres",
    "aiomysql": "mysql", "oracledb": "oracle", "pyarrow": "parquet",
    "arangoasync": "arango", "aiohttp": "arango", "fastapi": "tiro", "uvicorn": "tiro", "faker": "tiro", "jsonschema_rs": "tiro",
    "polars": "table",
}  # fmt: skip


@dataclass
class Plugin:
    """One plugin that was found: where, and, once it is loaded, its classes."""

    kind: str
    type: str
    path: Path | None
    origin: str
    entry_point: EntryPoint | None = None
    source: str = ""
    """A digest of the files that it was loaded from, for what is the user's own: a file that changed is another plugin."""
    _role: RoleClass | None = field(default=None, repr=False)

    @property
    def doc(self) -> str:
        """The module's docstring, read without importing it; a plugin that only re-exports a class has that class's module's."""
        if (file := self.file) is not None:
            try:
                text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8")))
            except (OSError, SyntaxError, ValueError) as error:
                return f"cannot be read: {error}"
            if text:
                return text
        try:
            module = sys.modules[self.role.__module__]
        except PluginError as error:
            return str(error).splitlines()[0]
        return inspect.cleandoc(self.role.__doc__ or module.__doc__ or "")

    @property
    def file(self) -> Path | None:
        """The Python file that it is in: of an installed package, found without importing it, if that can be told."""
        if self.path is not None or self.entry_point is None:
            return self.path
        try:
            spec = importlib.util.find_spec(self.entry_point.module)
        except (ImportError, ValueError):
            return None
        return Path(spec.origin) if spec is not None and spec.origin and spec.origin.endswith(".py") else None

    @property
    def summary(self) -> str:
        """The first line of the docstring."""
        return self.doc.split("\n", 1)[0]

    @property
    def role(self) -> RoleClass:
        """The role class, imported now if it was not yet; raises `PluginError` with file, line and remedy."""
        if self._role is None:
            self._role = self._load()
        return self._role

    @property
    def config(self) -> ConfigClass:
        """The class of its options: the type parameter of the role class."""
        for base in self.role.__mro__:
            for generic in getattr(base, "__orig_bases__", ()):
                for argument in typing.get_args(generic):
                    if isinstance(argument, type) and issubclass(argument, Config):
                        return argument
        raise PluginError(f"{self}: its class says no options; write `class {self.kind.title()}(...[Config])`")

    def __str__(self) -> str:
        return f"{self.kind} `{self.type}` ({self.origin})"

    def _load(self) -> RoleClass:
        class_name = self.kind.title()
        try:
            found = self._import()
        except ModuleNotFoundError as error:
            missing = (error.name or "").split(".")[0]
            if missing in _EXTRAS:
                raise PluginError(f"{self} needs the library `{missing}`: pip install 'karez[{_EXTRAS[missing]}]'") from error
            raise PluginError(f"{self} cannot be imported: {error}; install the library that it needs{_where(error, self.path)}") from error
        except (Exception, SystemExit) as error:
            raise PluginError(f"{self} cannot be imported: {type(error).__name__}: {error}{_where(error, self.path)}") from error
        role = getattr(found, class_name, None) if isinstance(found, ModuleType) else found
        if role is None:
            raise PluginError(f"{self}: the file has no class named `{class_name}`; name it so, or import one under that name")
        if not (isinstance(role, type) and issubclass(role, Role) and role.kind == self.kind):
            raise PluginError(f"{self}: `{class_name}` is no {self.kind}; derive it from a {self.kind} class of the package `karez`")
        return role

    def _import(self) -> object:
        if self.entry_point is not None:
            return self.entry_point.load()
        assert self.path is not None
        if self.path.is_relative_to(_BUILT_IN):
            return importlib.import_module(f"karez.plugins.{self.kind}.{self.type}")
        # a namespace of its own: a plugin called json.py shadows nothing, two folders may hold the same type,
        # and the next edition of a file may be loaded while this one still runs
        self.source = _digest(self.path)
        place = hashlib.sha256(str(self.path.resolve()).encode()).hexdigest()[:8]
        name = f"karez_plugins.{self.kind}.{self.type}_{place}_{self.source}"
        if name in sys.modules:
            return sys.modules[name]
        importlib.invalidate_caches()
        for parent in ("karez_plugins", f"karez_plugins.{self.kind}"):
            if parent not in sys.modules:
                # `from . import x` in a plugin looks for the packages above it
                sys.modules[parent] = ModuleType(parent)
                sys.modules[parent].__path__ = []
        package = self.path.name == "__init__.py"
        spec = importlib.util.spec_from_file_location(
            name,
            self.path,
            loader=_FreshLoader(name, str(self.path)),
            submodule_search_locations=[str(self.path.parent)] if package else None,
        )
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
        return module


class _FreshLoader(SourceFileLoader):
    """Compiles what the file says now: bytecode that was kept is told apart by second and size only."""

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        return self.source_to_code(self.get_data(path), path)


class Registry:
    """The plugins that can be used, and, for `karez plugins --doctor`, what was searched and why a file was left out."""

    def __init__(self, folders: Iterable[Path | str] = ()) -> None:
        self.searched: list[str] = []
        self.left_out: list[tuple[Path, str]] = []
        self._plugins: dict[tuple[str, str], Plugin] = {}
        self._scan(_BUILT_IN, "built in")
        self._add_entry_points()
        for folder in folders:
            self._scan(Path(folder), str(folder))

    def __iter__(self) -> Iterator[Plugin]:
        return iter(sorted(self._plugins.values(), key=lambda plugin: (KINDS.index(plugin.kind), plugin.type)))

    def types(self, kind: str) -> list[str]:
        """The types of a kind."""
        return sorted(name for found_kind, name in self._plugins if found_kind == kind)

    def find(self, kind: str, type_name: str) -> Plugin:
        """The plugin of this kind and type; raises `PluginError` with the nearest one that there is."""
        plugin = self._plugins.get((kind, type_name))
        if plugin is None:
            nearest = suggest(type_name, self.types(kind))
            hint = f"; did you mean `{nearest}`?" if nearest else f"; there are: {', '.join(self.types(kind))}"
            reasons = [f"\n  {path}: {reason}" for path, reason in self.left_out if path.stem == type_name or path.name == type_name]
            raise PluginError(f"no {kind} of type `{type_name}`{hint}{''.join(reasons)}")
        return plugin

    def _add(self, plugin: Plugin) -> None:
        self._plugins[plugin.kind, plugin.type] = plugin

    def _add_entry_points(self) -> None:
        for kind in KINDS:
            for point in entry_points(group=f"karez.{kind}"):
                self.searched.append(f"entry point {point.group}: {point.name} = {point.value}")
                distribution = point.dist.name if point.dist else "an installed package"
                self._add(Plugin(kind, point.name, None, distribution, point))

    def _scan(self, folder: Path, origin: str) -> None:
        self.searched.append(f"{folder.resolve()}{'' if folder.is_dir() else ' (no such folder)'}")
        if not folder.is_dir():
            return
        for place in (folder, *(folder / kind for kind in KINDS)):
            if place.is_dir() and (reason := _unsafe(place)):
                self.left_out.append((place, reason))
                raise PluginError(f"plugin folder {place}: {reason}")
        for kind in KINDS:
            for path in sorted((folder / kind).glob("*")):
                if not path.name.startswith((".", "_")):
                    self._scan_path(kind, path, origin)

    def _scan_path(self, kind: str, path: Path, origin: str) -> None:
        type_name, file = (path.stem, path) if path.suffix == ".py" else (path.name, path / "__init__.py")
        if not file.is_file():
            self.left_out.append((path, "is no Python file and no folder with an __init__.py"))
        elif not _TYPE.match(type_name):
            self.left_out.append((path, "its name is no type: lower-case letters, digits and _, a letter first"))
        elif reason := _unsafe(path) or _unsafe(file):
            self.left_out.append((path, reason))
        elif path.suffix == ".py" and (path.with_suffix("") / "__init__.py").is_file():
            self.left_out.append((path, f"a folder of that name is the plugin: {path.with_suffix('')}"))
        else:
            self._add(Plugin(kind, type_name, file, origin))


def _digest(path: Path) -> str:
    """A digest of a plugin's file, or of all files of its folder."""
    found = hashlib.sha256()
    for file in sorted(path.parent.rglob("*.py")) if path.name == "__init__.py" else [path]:
        found.update(file.read_bytes() + b"\0")
    return found.hexdigest()[:12]


def _unsafe(path: Path) -> str | None:
    """Why code from here must not run: plugins run with our rights, so nobody else may be able to write them."""
    if os.name == "posix" and path.stat().st_mode & stat.S_IWOTH:
        return f"everybody may write it, so it is not loaded; chmod o-w {path}"
    return None


def _where(error: BaseException, path: Path | None) -> str:
    """The line of the plugin's file that an error came from."""
    if isinstance(error, SyntaxError) and error.filename:
        return f" ({error.filename}:{error.lineno})"
    if path is None:
        return ""
    own = path.resolve().parent if path.name == "__init__.py" else path.resolve()
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename).resolve().is_relative_to(own)]
    return f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""

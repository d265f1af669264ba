"""Parts that other packages provide by entry point, such as models, policies, methods and reward-model formats.

A package registers a part under a name in one of the groups `rsd.backends`, `rsd.policies`, `rsd.methods`, `rsd.tasks`,
`rsd.splitters`, `rsd.graders`, `rsd.prm_formats` and `rsd.critics`. The name then works where a built-in one does. A
part is imported only when it is named, so a broken package affects nobody else. Observers, in the group
`rsd.observers`, are used without being named (`observing.py`).
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Generic, TypeVar

from pydantic import BaseModel

from rsd_core.data import unknown
from rsd_core.errors import ConfigurationError, RSDError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Plugin:
    """An entry point of an installed package."""

    name: str
    value: str
    """Where the part is, as `module:object`."""
    package: str
    """The distribution that registers it, by its name on the index."""
    rivals: tuple[str, ...] = ()
    """Other distributions registering the same name."""

    def load(self) -> Any:
        """Import the object.

        Raises:
            ConfigurationError: The module cannot be imported, has no such object, or two packages claim the name. An
                `RSDError` from the module itself, such as `MissingDependency`, is passed on.
        """
        from importlib.metadata import EntryPoint

        if self.rivals:
            raise ConfigurationError(f"{self} is also in {', '.join(map(repr, self.rivals))}; uninstall all but one")
        try:
            return EntryPoint(self.name, self.value, "").load()
        except RSDError:
            raise
        except (Exception, SystemExit) as error:
            raise ConfigurationError(
                f"{self}: {self.value} cannot be imported ({type(error).__name__}: {error}); reinstall the package, "
                f"or remove it: pip uninstall {self.package}"
            ) from error

    def __str__(self) -> str:
        return f"{self.name!r} of the package {self.package!r}"


class Registry(Mapping[str, T], Generic[T]):
    """Parts of one kind by name: the built-in ones, then those of installed packages.

    A built-in part takes precedence over a package's part of the same name, with a warning that names the package. A
    name that two packages claim is refused when used.

    Args:
        what: The kind of part, for messages: "policy".
        group: The entry-point group.
        built_in: The parts that need no other package.
        part: Turns a plugin into a part: `of_class(Base)` for classes, `of_type(Type)` for objects, or a function that
            does more than import it.
    """

    def __init__(self, what: str, group: str, built_in: Mapping[str, T], part: Callable[[Plugin], T]) -> None:
        self.what, self.group = what, group
        self._built_in, self._part = built_in, part

    def __getitem__(self, name: str) -> T:
        """The part with this name; a plugin is imported here.

        Raises:
            ConfigurationError: There is no such part, or its package is broken.
        """
        plugin = self._plugin(name)
        if name in self._built_in:
            if plugin:
                warnings.warn(
                    f"the built-in {self.what} {name!r} is used, not the one with the same name in the package "
                    f"{plugin.package!r}",
                    stacklevel=2,
                )
            return self._built_in[name]
        if plugin is None:
            raise ConfigurationError(unknown(self.what, name, self))
        return self._part(plugin)

    def __contains__(self, name: object) -> bool:
        return name in self._built_in or self._plugin(name) is not None

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys([*self._built_in, *_installed(self.group, *sys.path)]))

    def __len__(self) -> int:
        return len(list(iter(self)))

    def _plugin(self, name: object) -> Plugin | None:
        plugins = _installed(self.group, *sys.path)
        if name not in plugins and name not in self._built_in:
            _entry_points.cache_clear()  # it may have been installed meanwhile
            _installed.cache_clear()
            plugins = _installed(self.group, *sys.path)
        return plugins.get(name)  # type: ignore[call-overload, no-any-return]


@cache
def _entry_points(*_path: str) -> Any:
    """Entry points of all groups. Reading them takes about fifty milliseconds, so they are cached per search path."""
    from importlib.metadata import entry_points

    return entry_points()


@cache
def _installed(group: str, *path: str) -> Mapping[str, Plugin]:
    """The plugins of a group."""
    by_name: dict[str, Plugin] = {}
    for point in _entry_points(*path).select(group=group):
        package = (point.dist and point.dist.metadata.get("Name")) or point.module  # broken metadata has no name
        first = by_name.setdefault(point.name, Plugin(point.name, point.value, package))
        if first.package != package:
            by_name[point.name] = replace(first, rivals=(*first.rivals, package))
    return by_name


def of_class(base: type[T]) -> Callable[[Plugin], type[T]]:
    """A function that turns plugins into classes: complete subclasses of `base`.

    If they are data with a `kind`, it must be the plugin's name, so that written data can be read back.
    """

    def part(plugin: Plugin) -> type[T]:
        loaded = plugin.load()
        if not (isinstance(loaded, type) and issubclass(loaded, base)):
            raise ConfigurationError(f"{plugin}: {plugin.value} is {loaded!r}, not a subclass of {base.__name__}")
        if lacks := sorted(getattr(loaded, "__abstractmethods__", ())):
            raise ConfigurationError(f"{plugin}: the class {plugin.value} lacks {', '.join(lacks)}")
        if issubclass(loaded, BaseModel):
            kind = loaded.model_fields.get("kind")
            if kind is None or kind.default != plugin.name:
                line = f'kind: Literal["{plugin.name}"] = "{plugin.name}"'
                raise ConfigurationError(f"{plugin}: the class {plugin.value} needs the field {line}")
        return loaded

    return part


def of_type(kind: type[T]) -> Callable[[Plugin], T]:
    """A function that turns plugins into objects of type `kind`."""

    def part(plugin: Plugin) -> T:
        loaded = plugin.load()
        if not isinstance(loaded, kind):
            raise ConfigurationError(f"{plugin}: {plugin.value} is {loaded!r}, not a {kind.__name__}")
        return loaded

    return part

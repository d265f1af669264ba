"""Parts that other packages bring, by entry point: models, policies, methods, graders, tasks, reward-model formats.

A package registers a part under a name in one of the groups `rsd.backends`, `rsd.policies`, `rsd.methods`,
`rsd.graders`, `rsd.tasks` and `rsd.prm_formats`. From then on, the name works wherever a built-in one does. Nothing is
imported before a part is named, so that a broken package is in nobody's way.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Generic, TypeVar

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
    """The distribution that registers it, as one installs it."""

    def load(self) -> Any:
        """Import the object.

        Raises:
            ConfigurationError: The module cannot be imported, or has no such object. What the module itself raises as
                an `RSDError`, such as `MissingDependency`, is passed on.
        """
        from importlib.metadata import EntryPoint

        try:
            return EntryPoint(self.name, self.value, "").load()
        except RSDError:
            raise
        except (Exception, SystemExit) as error:
            raise ConfigurationError(
                f"{self}: {self.value} cannot be imported ({type(error).__name__}: {error}); "
                f"install the package anew, or uninstall it: pip uninstall {self.package}"
            ) from error

    def __str__(self) -> str:
        return f"{self.name!r} of the package {self.package!r}"


class Registry(Mapping[str, T], Generic[T]):
    """Parts of one sort by name: the built-in ones, then those of installed packages.

    A built-in part goes before a package's part of the same name, with a warning that names the package. A name that
    two packages claim is refused when it is used.

    Args:
        what: The sort, for messages: "policy".
        group: The group of entry points.
        built_in: The parts that need no package.
        part: Makes the part of a plugin: `of_class(Base)` where parts are classes, `of_type(Type)` where they are
            objects, or a function that does more than import it.
    """

    def __init__(self, what: str, group: str, built_in: Mapping[str, T], part: Callable[[Plugin], T]) -> None:
        self.what, self.group = what, group
        self._built_in, self._part = built_in, part

    def __getitem__(self, name: str) -> T:
        """The part of a name; a plugin is imported here.

        Raises:
            ConfigurationError: There is no such part, or its package is broken; in one line.
        """
        claims = self._claims(name)
        if name in self._built_in:
            for plugin in claims:
                warnings.warn(
                    f"the built-in {self.what} {name!r} is used, and not the one of the package {plugin.package!r}, "
                    "which has the same name",
                    stacklevel=2,
                )
            return self._built_in[name]
        if not claims:
            raise ConfigurationError(unknown(self.what, name, list(self)))
        if len(claims) > 1:
            packages = " and ".join(repr(plugin.package) for plugin in claims)
            raise ConfigurationError(f"the {self.what} {name!r} is claimed by {packages}; uninstall one of them")
        return self._part(claims[0])

    def __contains__(self, name: object) -> bool:
        return name in self._built_in or bool(self._claims(name))

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys([*self._built_in, *(plugin.name for plugin in _installed(self.group, *sys.path))]))

    def __len__(self) -> int:
        return len(list(iter(self)))

    def _claims(self, name: object) -> list[Plugin]:
        claims = [plugin for plugin in _installed(self.group, *sys.path) if plugin.name == name]
        if not claims and name not in self._built_in:
            _installed.cache_clear()  # it may have been installed since
            claims = [plugin for plugin in _installed(self.group, *sys.path) if plugin.name == name]
        return claims


@cache
def _installed(group: str, *_path: str) -> tuple[Plugin, ...]:
    """The plugins of a group. Looking for them takes some milliseconds, so it is done once for a search path."""
    from importlib.metadata import entry_points

    return tuple(
        Plugin(point.name, point.value, point.dist.name if point.dist else point.module)
        for point in entry_points(group=group)
    )


def of_class(base: type[T]) -> Callable[[Plugin], type[T]]:
    """What makes a plugin's part where parts are classes: subclasses of `base`."""

    def part(plugin: Plugin) -> type[T]:
        loaded = plugin.load()
        if not (isinstance(loaded, type) and issubclass(loaded, base)):
            raise ConfigurationError(f"{plugin}: {plugin.value} is {loaded!r} and no subclass of {base.__name__}")
        return loaded

    return part


def of_type(kind: type[T]) -> Callable[[Plugin], T]:
    """What makes a plugin's part where parts are objects of type `kind`."""

    def part(plugin: Plugin) -> T:
        loaded = plugin.load()
        if not isinstance(loaded, kind):
            raise ConfigurationError(f"{plugin}: {plugin.value} is {loaded!r} and no {kind.__name__}")
        return loaded

    return part

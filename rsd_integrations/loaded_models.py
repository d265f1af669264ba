"""The models of adapters: given by spec or as objects, loaded on first use, with identities for caches."""

from __future__ import annotations

import threading
import uuid
import weakref
from collections.abc import Callable
from pickle import PicklingError
from typing import Any, SupportsIndex, TypeVar

from rsd_core.decoder import Decoder
from rsd_core.health import Health
from rsd_core.model import Model
from rsd_core.registry import load

AnyDecoder = TypeVar("AnyDecoder", bound=Decoder)


class Resident:
    """A model with process-local resources, such as weights or connections: it is pickled as its spec."""

    made_by: Callable[[], Model] | None = None

    def __reduce_ex__(self, protocol: SupportsIndex) -> str | tuple[Any, ...]:
        if self.made_by is None:
            raise PicklingError(
                f"{self!r} holds weights or connections, which cannot be sent to another process. Create it from a "
                "spec with load('hf:…'), so that it is loaded again there; or send the RSDConfig, and build the "
                "decoder there"
            )
        return super().__reduce_ex__(protocol)


class LoadedModels:
    """Models by spec, each loaded once, on first use, for all holders of this object.

    Copies of an adapter share it; pickles leave it out, and weights are loaded again where needed.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._models: dict[str, Any] = {}
        self._health: Health | None = None

    def get(self, model: str | Model) -> Any:
        """The model behind a spec; a model is returned unchanged. Concurrent threads load it only once."""
        if not isinstance(model, str):
            return model
        with self._lock:
            if model not in self._models:
                self._models[model] = load(model)
            return self._models[model]

    def has(self, *models: str | Model) -> bool:
        """Whether all of them are available without loading."""
        return all(not isinstance(model, str) or model in self._models for model in models)

    def watched(self, decoder: AnyDecoder) -> AnyDecoder:
        """One call's decoder, sharing the record of which models have ever worked with all other calls.

        An adapter creates a decoder for each call, so without this a broken role would look new to each of them.
        """
        with self._lock:
            self._health = decoder._health = self._health or decoder._health
        return decoder

    def __deepcopy__(self, memo: dict[int, Any]) -> LoadedModels:
        return self

    def __reduce__(self) -> tuple[type[LoadedModels], tuple[()]]:
        return LoadedModels, ()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LoadedModels)  # what is loaded is not part of an adapter's value

    __hash__ = None  # type: ignore[assignment]


_identities: dict[int, str] = {}
_lock = threading.Lock()


def identity(model: object) -> str:
    """A text that identifies this object uniquely, across time and processes.

    Two objects with the same name may hold different weights; a cache must never confuse them.
    """
    with _lock:
        if id(model) not in _identities:  # not keyed on the object: equal objects may differ, and some are unhashable
            _identities[id(model)] = f"{getattr(model, 'name', None) or type(model).__name__}#{uuid.uuid4().hex[:12]}"
            weakref.finalize(model, _identities.pop, id(model)).atexit = False
        return _identities[id(model)]

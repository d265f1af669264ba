"""Models that adapters hold: given by spec or as objects, loaded on first use, told apart in caches."""

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
    """A model that holds what cannot leave its process, such as weights or connections: it is pickled by its spec."""

    made_by: Callable[[], Model] | None = None

    def __reduce_ex__(self, protocol: SupportsIndex) -> str | tuple[Any, ...]:
        if self.made_by is None:
            raise PicklingError(
                f"{self!r} holds weights or connections, which cannot be sent to another process. Make it by its spec, "
                "load('hf:…'), and it is loaded again there; or send the RSDConfig, and build the decoder there"
            )
        return super().__reduce_ex__(protocol)


class LoadedModels:
    """Models by spec, each loaded once, on first use, for everything that holds this object.

    Copies of an adapter share it, pickles leave it behind: weights are loaded again where they are needed.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._models: dict[str, Any] = {}
        self._health: Health | None = None

    def get(self, model: str | Model) -> Any:
        """The model behind a spec; a model is given back as it is. Threads that come first load it once."""
        if not isinstance(model, str):
            return model
        with self._lock:
            if model not in self._models:
                self._models[model] = load(model)
            return self._models[model]

    def has(self, *models: str | Model) -> bool:
        """Whether all of them are at hand without loading."""
        return all(not isinstance(model, str) or model in self._models for model in models)

    def watched(self, decoder: AnyDecoder) -> AnyDecoder:
        """The decoder of one call, which shares with those of all others the knowledge of which models ever worked.

        An adapter makes a decoder for each call, and a role that never works would be new to each of them.
        """
        with self._lock:
            self._health = decoder._health = self._health or decoder._health
        return decoder

    def __deepcopy__(self, memo: dict[int, Any]) -> LoadedModels:
        return self

    def __reduce__(self) -> tuple[type[LoadedModels], tuple[()]]:
        return LoadedModels, ()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LoadedModels)  # what is loaded is no part of an adapter's value

    __hash__ = None  # type: ignore[assignment]


_identities: dict[int, str] = {}
_lock = threading.Lock()


def identity(model: object) -> str:
    """A text that tells this object from every other one, now and later, here and elsewhere.

    Two objects of the same name may hold other weights; a cache must never take one for the other.
    """
    with _lock:
        if id(model) not in _identities:  # keyed on no object: what equals it is another one, and some have no hash
            _identities[id(model)] = f"{getattr(model, 'name', None) or type(model).__name__}#{uuid.uuid4().hex[:12]}"
            weakref.finalize(model, _identities.pop, id(model)).atexit = False
        return _identities[id(model)]

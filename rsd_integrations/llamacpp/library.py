"""llama.cpp's C library: found, loaded and verified once per process.

In this order: the folder or file in `RSD_LLAMA_LIBRARY`; the shared object of the package xllamacpp, which exports the
C functions (it is not imported); the library of llama-cpp-python, with the structures of its own module.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import logging
import os
import re
import sys
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from ctypes import c_bool, c_char_p, c_float, c_int32, c_size_t, c_uint32, c_uint64, c_void_p
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from rsd_core.errors import ConfigurationError, MissingDependency
from rsd_integrations.llamacpp.layouts import LAYOUTS, Batch, Layout, Raw

logger = logging.getLogger("rsd_integrations.llamacpp")
logger.addHandler(logging.NullHandler())  # unless the user adds a handler, its warnings do not go to stderr

LIBRARY: Final = "RSD_LLAMA_LIBRARY"
"""Environment variable: a folder with a build of llama.cpp, or its library."""
REPACK: Final = "RSD_LLAMA_REPACK"
"""Environment variable: 0 keeps weights as stored (llama.cpp's `use_extra_bufts`), which a build compiled for the
native processor may need: its kernels for repacked weights crashed on virtual machines."""

ANY_PLATFORM: Final = 'CMAKE_ARGS="-DGGML_NATIVE=OFF" pip install llama-cpp-python'
"""Compiles a library on platforms without a supported wheel."""

FUNCTIONS: Final[dict[str, tuple[Any, ...]]] = {
    # Name: type of the result, types of the arguments. Models, contexts and so on are addresses.
    "llama_backend_init": (None,),
    "llama_print_system_info": (c_char_p,),
    "llama_supports_gpu_offload": (c_bool,),
    "llama_model_free": (None, c_void_p),
    "llama_model_get_vocab": (c_void_p, c_void_p),
    "llama_model_n_embd": (c_int32, c_void_p),
    "llama_model_n_swa": (c_int32, c_void_p),
    "llama_model_n_ctx_train": (c_int32, c_void_p),
    "llama_model_n_params": (c_uint64, c_void_p),
    "llama_model_size": (c_uint64, c_void_p),
    "llama_model_desc": (c_int32, c_void_p, c_char_p, c_size_t),
    "llama_model_has_encoder": (c_bool, c_void_p),
    "llama_model_has_decoder": (c_bool, c_void_p),
    "llama_model_is_recurrent": (c_bool, c_void_p),
    "llama_model_is_hybrid": (c_bool, c_void_p),
    "llama_model_is_diffusion": (c_bool, c_void_p),
    "llama_model_meta_count": (c_int32, c_void_p),
    "llama_model_meta_key_by_index": (c_int32, c_void_p, c_int32, c_char_p, c_size_t),
    "llama_model_meta_val_str_by_index": (c_int32, c_void_p, c_int32, c_char_p, c_size_t),
    "llama_model_chat_template": (c_char_p, c_void_p, c_char_p),
    "llama_adapter_lora_init": (c_void_p, c_void_p, c_char_p),
    "llama_vocab_n_tokens": (c_int32, c_void_p),
    "llama_vocab_type": (c_int32, c_void_p),
    "llama_vocab_bos": (c_int32, c_void_p),
    "llama_vocab_eos": (c_int32, c_void_p),
    "llama_vocab_get_add_bos": (c_bool, c_void_p),
    "llama_vocab_get_text": (c_char_p, c_void_p, c_int32),
    "llama_vocab_get_attr": (c_int32, c_void_p, c_int32),
    "llama_vocab_is_eog": (c_bool, c_void_p, c_int32),
    "llama_tokenize": (c_int32, c_void_p, c_char_p, c_int32, c_void_p, c_int32, c_bool, c_bool),
    "llama_token_to_piece": (c_int32, c_void_p, c_int32, c_char_p, c_int32, c_int32, c_bool),
    "llama_free": (None, c_void_p),
    "llama_n_ctx": (c_uint32, c_void_p),
    "llama_n_ctx_seq": (c_uint32, c_void_p),
    "llama_n_batch": (c_uint32, c_void_p),
    "llama_n_ubatch": (c_uint32, c_void_p),
    "llama_n_seq_max": (c_uint32, c_void_p),
    "llama_n_threads": (c_int32, c_void_p),
    "llama_n_threads_batch": (c_int32, c_void_p),
    "llama_set_n_threads": (None, c_void_p, c_int32, c_int32),
    "llama_set_adapters_lora": (c_int32, c_void_p, c_void_p, c_size_t, ctypes.POINTER(c_float)),
    "llama_set_embeddings": (None, c_void_p, c_bool),
    "llama_decode": (c_int32, c_void_p, Batch),
    "llama_get_logits": (c_void_p, c_void_p),
    "llama_get_embeddings": (c_void_p, c_void_p),
    "llama_get_memory": (c_void_p, c_void_p),
    "llama_memory_clear": (None, c_void_p, c_bool),
    "llama_memory_seq_rm": (c_bool, c_void_p, c_int32, c_int32, c_int32),
    "llama_memory_seq_cp": (None, c_void_p, c_int32, c_int32, c_int32, c_int32),
    "llama_memory_seq_pos_min": (c_int32, c_void_p, c_int32),
    "llama_memory_seq_pos_max": (c_int32, c_void_p, c_int32),
    "llama_state_seq_get_size": (c_size_t, c_void_p, c_int32),
    "llama_state_seq_get_data": (c_size_t, c_void_p, c_void_p, c_size_t, c_int32),
    "llama_state_seq_set_data": (c_size_t, c_void_p, c_char_p, c_size_t, c_int32),
    "ggml_backend_dev_count": (c_size_t,),
    "ggml_backend_load_all_from_path": (None, c_char_p),
}

_LOG_CALLBACK = ctypes.CFUNCTYPE(None, c_int32, c_char_p, c_void_p)
_CONTINUED = 5
_LEVELS = {3: logging.INFO, 4: logging.ERROR}  # its warnings concern calling programs; its information is verbose
_LOCK = threading.Lock()
_library: Library | None = None


class MissingLibrary(MissingDependency):
    """No package in this environment provides llama.cpp."""

    def __init__(self) -> None:
        super().__init__("xllamacpp", "llamacpp", "gguf:")
        has_wheel = sys.platform == "darwin" or (
            sys.platform == "linux" and os.uname().machine in ("x86_64", "aarch64")
        )
        if not has_wheel:
            self.package = "llama-cpp-python"
            self.args = (
                f"gguf: needs llama.cpp, but there is no wheel for this platform. Compile one with: {ANY_PLATFORM} "
                f"(or name the folder of your own build in {LIBRARY})",
            )


@dataclass(frozen=True)
class Candidate:
    """A library that may be used.

    Args:
        file: The shared object.
        source: Description and version, for messages.
        layouts: Its possible layouts.
    """

    file: Path
    source: str
    layouts: tuple[Layout, ...] = LAYOUTS


def _silence() -> Any:
    """A C callback that ignores messages; without one, they go to stderr."""
    return None if sys.platform == "win32" else ctypes.cast(ctypes.CDLL(None).abs, _LOG_CALLBACK)


_LIBGOMP = "It is GCC's library for threads: apt install libgomp1 on Debian and Ubuntu, dnf install libgomp on Fedora"


class Library:
    """The C functions of one shared object, called with its verified layout.

    Every function of `FUNCTIONS` is an attribute. Use `library()`, which loads one per process.

    Args:
        candidate: What to load.

    Raises:
        ConfigurationError: It cannot be loaded, lacks a function, or has an unknown layout.
    """

    def __init__(self, candidate: Candidate) -> None:
        self.file, self.source = candidate.file, candidate.source
        try:
            self._functions = ctypes.CDLL(str(candidate.file))
        except OSError as error:
            remedy = ". " + _LIBGOMP if "libgomp" in str(error) else ""  # minimal images of containers lack it
            raise ConfigurationError(f"{self.source} cannot be loaded: {error}{remedy}") from error
        missing = [name for name in FUNCTIONS if not hasattr(self._functions, name)]
        if missing:
            raise ConfigurationError(f"{self.source} lacks required functions of llama.cpp: {', '.join(missing)}")
        for name, (result, *arguments) in FUNCTIONS.items():
            function = getattr(self._functions, name)
            function.restype, function.argtypes = result, arguments
            setattr(self, name, function)
        self._model_defaults = self._defaults("llama_model_default_params")
        self._context_defaults = self._defaults("llama_context_default_params")
        self.layout = prove(self.source, candidate.layouts, self._model_defaults, self._context_defaults)
        for name, arguments in {
            "llama_model_load_from_file": [c_char_p, self.layout.model],
            "llama_init_from_model": [c_void_p, self.layout.context],
        }.items():
            function = getattr(self._functions, name)
            function.restype, function.argtypes = c_void_p, arguments
            setattr(self, name, function)
        self._functions.llama_log_set(_LOG.callback, None)
        self.llama_backend_init()
        if not self.ggml_backend_dev_count():  # kernels in separate files, chosen at run time
            self.ggml_backend_load_all_from_path(os.fsencode(self.file.resolve().parent))
        # Registered before models and contexts, so run after them at exit: from then on nothing may call Python.
        weakref.finalize(_LOG, self._functions.llama_log_set, _silence(), None)
        logger.debug("%s from %s: %s", self.source, self.file, self.features)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)  # for the type checker: functions are set as attributes

    def _defaults(self, function: str) -> bytes:
        getter = getattr(self._functions, function, None)
        if getter is None:
            raise ConfigurationError(f"{self.source} lacks the function {function} of llama.cpp")
        getter.restype, getter.argtypes = Raw, ()
        return bytes(getter().data)

    def model_parameters(self, **values: object) -> ctypes.Structure:
        """The library's default model parameters, with these changes."""
        return _changed(self.layout.model, self._model_defaults, values)

    def context_parameters(self, **values: object) -> ctypes.Structure:
        """The library's default context parameters, with these changes."""
        return _changed(self.layout.context, self._context_defaults, values)

    @property
    def features(self) -> str:
        """Its compile-time and detected machine features, as reported."""
        return str(self.llama_print_system_info().decode(errors="replace").strip())

    def optional(self, name: str, result: Any, *arguments: Any) -> Any:
        """A function that some builds lack, or None."""
        function = getattr(self._functions, name, None)
        if function is not None:
            function.restype, function.argtypes = result, arguments
        return function

    @contextmanager
    def messages(self) -> Iterator[list[str]]:
        """Errors it reports to this thread inside the context: for our own error message, not logged."""
        with _LOG.kept() as lines:
            yield lines


class Log:
    """Forwards the library's messages to Python's logging, joining parts of a line."""

    def __init__(self) -> None:
        self.callback = _LOG_CALLBACK(self._take)  # kept alive here: the library stores only its address
        self._thread = threading.local()

    def _take(self, level: int, text: bytes | None, _: object) -> None:
        state = self._thread.__dict__
        begun: tuple[int, str] = state.pop("begun", (logging.DEBUG, ""))
        piece = (text or b"").decode(errors="replace")
        if level != _CONTINUED:
            if begun[1]:
                self._say(*begun)
            begun = (_LEVELS.get(level, logging.DEBUG), "")
        level, line = begun[0], begun[1] + piece
        if line.endswith("\n"):
            self._say(level, line)
        elif line:
            state["begun"] = (level, line)

    def _say(self, level: int, text: str) -> None:
        line = text.rstrip()
        if line:
            kept = self._thread.__dict__.get("kept")
            if kept is not None and level == logging.ERROR:
                kept.append(line)
                level = logging.DEBUG  # the error that follows says it
            logger.log(level, "%s", line)

    @contextmanager
    def kept(self) -> Iterator[list[str]]:
        """The errors of this thread as a list."""
        self._thread.kept = lines = list[str]()
        try:
            yield lines
        finally:
            self._thread.kept = None


_LOG: Final = Log()


def library() -> Library:
    """The library of this process, loaded at the first call.

    Raises:
        MissingDependency: No package provides one; the message says what to install.
        ConfigurationError: No library found is usable; the message says why for each.
    """
    global _library
    with _LOCK:
        if _library is None:
            _library = _load()
        return _library


def _load() -> Library:
    failures = []
    for candidate in candidates():
        try:
            return Library(candidate)
        except ConfigurationError as error:
            failures.append(str(error))
    if not failures:
        raise MissingLibrary
    raise ConfigurationError(". ".join(failures))


def candidates() -> Iterator[Candidate]:
    """The available libraries, in the order tried. An explicitly named one is the only one."""
    if named := os.environ.get(LIBRARY):
        file = named_library(Path(named).expanduser())
        yield Candidate(file, f"{LIBRARY}={named}")
        return
    if folder := _package("xllamacpp"):
        for file in sorted(folder.glob("xllamacpp*.so")):
            yield Candidate(file, f"xllamacpp {_version('xllamacpp')}")
    if folder := _package("llama_cpp"):
        for file in _libraries(folder / "lib"):
            module = importlib.import_module("llama_cpp.llama_cpp")
            own = f"llama-cpp-python {_version('llama-cpp-python')}"
            fields = (module.llama_model_params._fields_, module.llama_context_params._fields_)
            yield Candidate(file, own, (Layout.of(own, *fields),))


def named_library(path: Path) -> Path:
    """The library at a path: a file, or the one in a folder (or in its `lib`, `bin` or `build/bin`).

    Raises:
        ConfigurationError: There is none.
    """
    if path.is_file():
        return path
    for folder in (path, path / "bin", path / "lib", path / "build" / "bin"):
        for file in _libraries(folder):
            return file
    raise ConfigurationError(
        f"{LIBRARY}={path}: no llama.cpp library found. Name a file, or a folder with libllama.so, libllama.dylib or "
        "llama.dll and the libggml files next to it"
    )


def _libraries(folder: Path) -> list[Path]:
    name = re.compile(r"(lib)?llama(\.v?[\d.]+)?\.(so|dylib|dll)(\.[\d.]+)?")
    return sorted(file for file in folder.glob("*llama*") if name.fullmatch(file.name))


def _package(name: str) -> Path | None:
    """The folder of a package, without importing it."""
    spec = importlib.util.find_spec(name)
    return Path(spec.origin).parent if spec and spec.origin else None


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "of an unknown version"


def prove(source: str, layouts: tuple[Layout, ...], model: bytes, context: bytes) -> Layout:
    """The layout in which all of a library's defaults read correctly.

    Args:
        source: The library's description, for the message.
        layouts: Its possible layouts.
        model: The bytes of its default parameters of models.
        context: The bytes of its default parameters of contexts.

    Raises:
        ConfigurationError: There is none.
    """
    wrong = {layout.builds: layout.misfits(model, context) for layout in layouts}
    for layout in layouts:
        if not wrong[layout.builds]:
            return layout
    nearest = min(wrong, key=lambda builds: len(wrong[builds]))
    raise ConfigurationError(
        f"{source} has unknown structures, so it is not called. Known: {'; '.join(wrong)}. Nearest is "
        f"{nearest}, in which these defaults do not fit: {', '.join(wrong[nearest])}. Install the release that "
        f'belongs to this one: pip install "rsd-decoding[llamacpp]", or: {ANY_PLATFORM}'
    )


def _changed(structure: type[ctypes.Structure], defaults: bytes, values: dict[str, object]) -> ctypes.Structure:
    size = ctypes.sizeof(structure)
    used = structure.room.offset
    parameters = structure.from_buffer_copy(defaults[:used].ljust(size, b"\0"))  # the rest was never written
    for name, value in values.items():
        setattr(parameters, name, value)
    return parameters

"""The weights and the vocabulary of a GGUF file, loaded once per process."""

from __future__ import annotations

import builtins
import ctypes
import enum
import os
import re
import threading
import weakref
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from rsd_core.errors import ConfigurationError
from rsd_integrations.llamacpp import long_runs
from rsd_integrations.llamacpp.library import LIBRARY, REPACK, Library, library

_MAGIC: Final = b"GGUF"
_NO_VOCABULARY, _WITH_BYTES = 0, (1, 4, 6)  # llama_vocab_type: none; SentencePiece, Unigram and PLaMo
_BPE: Final = 2
_BYTE: Final = re.compile(r"<0x([0-9A-F]{2})>")
_SHARD: Final = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf")
_LOCK = threading.Lock()
_models: weakref.WeakValueDictionary[tuple[object, ...], Model] = weakref.WeakValueDictionary()


class Attribute(enum.IntFlag):
    """Token attributes."""

    UNKNOWN = 1
    UNUSED = 2
    NORMAL = 4
    CONTROL = 8
    USER_DEFINED = 16
    BYTE = 32
    NORMALIZED = 64
    LSTRIP = 128
    RSTRIP = 256
    SINGLE_WORD = 512


class Adapter:
    """A LoRA adapter, loaded for one model and freed with it. Created by `Model.adapter`."""

    def __init__(self, model: Model, file: Path, address: int) -> None:
        self.file, self.address = file, address
        self._model = weakref.ref(model)

    def fits(self, model: Model) -> bool:
        """Whether it was loaded for this model."""
        return self._model() is model


class Model:
    """A GGUF file: its weights, mapped into memory, and its vocabulary. Use `Model.load`."""

    file: Path
    vocab_size: int
    """Number of logits."""
    width: int
    """Width of its hidden states."""
    context: int
    """Training context length in tokens."""
    parameters: int
    bytes: int
    """Size of its tensors in bytes."""
    vocabulary_only: bool
    bos: int | None
    eos: int | None
    add_bos: bool
    """Whether the file requests `bos` before a text."""

    def __init__(self, file: Path, gpu_layers: int | None, vocabulary_only: bool) -> None:
        self.file, self.vocabulary_only = file, vocabulary_only
        self.library = library()
        self.address = _load(self.library, file, gpu_layers, vocabulary_only)
        self._adapters: dict[tuple[object, ...], Adapter] = {}
        self._lock = threading.Lock()
        # Not at exit: an engine thread may still request a token's bytes.
        weakref.finalize(self, _free, self.library.llama_model_free, self.address, os.getpid()).atexit = False
        call = self.library
        self._vocabulary = call.llama_model_get_vocab(self.address)
        if call.llama_vocab_type(self._vocabulary) == _NO_VOCABULARY:
            raise ConfigurationError(f"{file} has no vocabulary, so it cannot read text")
        self.vocab_size = call.llama_vocab_n_tokens(self._vocabulary)
        width = call.optional("llama_model_n_embd_out", ctypes.c_int32, ctypes.c_void_p) or call.llama_model_n_embd
        self.width = width(self.address)
        self.context = call.llama_model_n_ctx_train(self.address)
        self.parameters = call.llama_model_n_params(self.address)
        self.bytes = call.llama_model_size(self.address)
        self.bos = self._token_or_none(call.llama_vocab_bos)
        self.eos = self._token_or_none(call.llama_vocab_eos)
        self.add_bos = self.bos is not None and bool(call.llama_vocab_get_add_bos(self._vocabulary))
        self._buffer = ctypes.create_string_buffer(256)
        self._check_vocabulary()

    @classmethod
    def load(cls, file: Path | str, *, gpu_layers: int | None = None, vocabulary_only: bool = False) -> Model:
        """The model of a file, loaded once per process while referenced.

        Args:
            file: A GGUF file; for a sharded model the first one, with the others next to it.
            gpu_layers: Layers on a graphics card: by default all if there is one, 0 for none.
            vocabulary_only: Skip the weights. A fully loaded model is reused.

        Raises:
            ConfigurationError: The file cannot be loaded.
        """
        path = _checked(Path(file).expanduser())
        status = path.stat()
        identity = (status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size, gpu_layers)
        with _LOCK:
            model = _models.get((*identity, False)) or _models.get((*identity, vocabulary_only))
            if model is None:
                model = _models[*identity, vocabulary_only] = cls(path, gpu_layers, vocabulary_only)
            return model

    @cached_property
    def metadata(self) -> Mapping[str, str]:
        """The file's metadata by key, as text, without lists."""
        call = self.library
        count = call.llama_model_meta_count(self.address)
        keys = [_text(call.llama_model_meta_key_by_index, self.address, at) for at in range(count)]
        return {key: _text(call.llama_model_meta_val_str_by_index, self.address, at) for at, key in enumerate(keys)}

    @property
    def architecture(self) -> str:
        """Its architecture, by llama.cpp's name."""
        return self.metadata.get("general.architecture", "")

    @cached_property
    def description(self) -> str:
        """Architecture, size and quantisation, as described by llama.cpp."""
        return _text(self.library.llama_model_desc, self.address)

    @cached_property
    def chat_template(self) -> str | None:
        """The file's own template, for jinja2, or None."""
        template = self.library.llama_model_chat_template(self.address, None)
        return None if template is None else str(template.decode(errors="replace"))

    def encode(self, text: str, *, special: bool = True, begin: bool = False) -> list[int]:
        """A text as tokens.

        Args:
            text: Any text; a lone surrogate is read as the replacement character.
            special: Whether to parse names of control tokens as these tokens.
            begin: Whether to prepend `bos` if the file requests it and the text lacks it.
        """
        whole = text.encode(errors="surrogatepass").decode(errors="replace")
        parts = long_runs.parts(whole) if self._has_patterns else [whole]
        ids = [id_ for part in parts for id_ in self._encode(part.encode(), special)]
        # Not left to the library, which assumes that the file names the token it requests.
        first = [self.bos] if begin and self.add_bos and self.bos is not None and ids[:1] != [self.bos] else []
        return first + ids

    @cached_property
    def _has_patterns(self) -> bool:
        return bool(self.library.llama_vocab_type(self._vocabulary) == _BPE)

    def _encode(self, data: builtins.bytes, special: bool) -> list[int]:
        room = len(data) + 16
        while True:
            ids = (ctypes.c_int32 * room)()
            count = self.library.llama_tokenize(self._vocabulary, data, len(data), ids, room, False, special)
            if count >= 0:
                return ids[:count]
            room = -count

    def piece(self, id_: int, special: bool = False) -> builtins.bytes:
        """The bytes that a token adds to a text; none for a control token, unless `special`."""
        self._check(id_)
        with self._lock:
            while True:
                buffer = self._buffer
                size = self.library.llama_token_to_piece(self._vocabulary, id_, buffer, len(buffer), 0, special)
                if size >= 0:
                    return buffer.raw[:size]
                self._buffer = ctypes.create_string_buffer(-size)

    def token(self, id_: int) -> str:
        """A token's text in the vocabulary."""
        self._check(id_)
        return str(self.library.llama_vocab_get_text(self._vocabulary, id_).decode(errors="replace"))

    def attributes(self, id_: int) -> Attribute:
        """What kind of token it is."""
        self._check(id_)
        return Attribute(self.library.llama_vocab_get_attr(self._vocabulary, id_))

    def ends(self, id_: int) -> bool:
        """Whether it ends a response."""
        self._check(id_)
        return bool(self.library.llama_vocab_is_eog(self._vocabulary, id_))

    def adapter(self, file: Path | str) -> Adapter:
        """A LoRA adapter for this model, loaded once.

        Raises:
            ConfigurationError: The file is not a GGUF adapter for this model.
        """
        path = _checked(Path(file).expanduser())
        if self.vocabulary_only:
            raise ConfigurationError(f"{self.file.name} was loaded without its weights: it accepts no adapter")
        status = path.stat()
        identity = (status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size)
        with self._lock:
            if identity not in self._adapters:
                with self.library.messages() as said:
                    address = self.library.llama_adapter_lora_init(self.address, os.fsencode(path))
                if not address:
                    raise ConfigurationError(
                        f"{path} cannot be used as a LoRA adapter of {self.file.name}: {_reason(said)}. Use an "
                        "adapter that was trained for this model and converted to GGUF"
                    )
                self._adapters[identity] = Adapter(self, path, address)
            return self._adapters[identity]

    def _check_vocabulary(self) -> None:
        """Refuse a vocabulary that cannot spell every text."""
        if self.library.llama_vocab_type(self._vocabulary) not in _WITH_BYTES:
            return
        missing = set(range(256))
        for id_ in range(self.vocab_size):
            if byte := _BYTE.fullmatch(self.token(id_)):
                missing.discard(int(byte[1], 16))
                if not missing:
                    return
        raise ConfigurationError(
            f"{self.file} has no tokens for {len(missing)} of the 256 bytes, so it cannot spell every text. Convert "
            "the model again with a current convert_hf_to_gguf.py"
        )

    def _check(self, id_: int) -> None:
        if not 0 <= id_ < self.vocab_size:
            raise ValueError(f"no token has the id {id_}: {self.file.name} has ids from 0 to {self.vocab_size - 1}")

    def _token_or_none(self, function: Callable[..., int]) -> int | None:
        id_ = function(self._vocabulary)
        return id_ if 0 <= id_ < self.vocab_size else None

    def __repr__(self) -> str:
        return f"Model({str(self.file)!r})"


def _free(function: Callable[[int], None], address: int, process: int) -> None:
    """Free the library's object; a forked child leaves its parent's alone."""
    if os.getpid() == process:
        function(address)


def _checked(path: Path) -> Path:
    """The resolved path of a plausible GGUF file."""
    if not path.exists():
        raise ConfigurationError(f"{path}: there is no such file")
    if not path.is_file():
        raise ConfigurationError(f"{path} is a folder; give the GGUF file in it")
    try:
        with path.open("rb") as stream:
            start = stream.read(4)
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from error
    if start != _MAGIC:
        raise ConfigurationError(f"{path} is not a GGUF file: it does not begin with {_MAGIC.decode()!r}")
    if (shard := _SHARD.fullmatch(path.name)) and int(shard[2]) != 1:
        first = f"{shard[1]}-00001-of-{shard[3]}.gguf"
        raise ConfigurationError(f"{path} is a later part of a model; give the first one, {first}")
    return path.resolve() if not shard else path.absolute()  # the other shards are next to the link, not its target


def _load(call: Library, file: Path, gpu_layers: int | None, vocabulary_only: bool) -> int:
    values: dict[str, object] = {"vocab_only": vocabulary_only}
    if gpu_layers is not None:
        values["n_gpu_layers"] = gpu_layers
    if os.environ.get(REPACK) == "0":
        values["use_extra_bufts"] = False
    with call.messages() as said:
        address = call.llama_model_load_from_file(os.fsencode(file), call.model_parameters(**values))
    if not address:
        raise ConfigurationError(
            f"{file} cannot be loaded: {_reason(said)}. Fetch a truncated file again; an unknown architecture needs "
            f"a newer llama.cpp than {call.source}, which {LIBRARY} can name"
        )
    return int(address)


def _reason(said: list[str]) -> str:
    """The library's messages about a failure, from cause to consequence, without function names."""
    return "; ".join(dict.fromkeys(re.sub(r"^\w+: ", "", line) for line in said)) or "llama.cpp does not say why"


def _text(function: Callable[..., int], *arguments: Any) -> str:
    """The text that a function writes into a buffer, with the length it reports."""
    size = 256
    while True:
        buffer = ctypes.create_string_buffer(size)
        length = function(*arguments, buffer, size)
        if length < size:
            return buffer.raw[: max(length, 0)].decode(errors="replace")
        size = length + 1

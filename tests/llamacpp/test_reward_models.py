"""Reward models with GGUF bodies: matching files and heads, refusals, and use without torch."""

import asyncio
import shutil
import subprocess
import sys
from pathlib import Path as Folder
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from rsd_core import ConfigurationError, Path, Step, VerifierError, as_prompt, load
from rsd_integrations.embedded.models import FOLDER
from rsd_integrations.huggingface import HuggingFaceVerifier, to_gguf
from rsd_integrations.huggingface import load_verifier as load_transformers
from rsd_integrations.llamacpp import load_verifier
from rsd_integrations.llamacpp.safetensors_files import SafetensorsFiles
from tests.huggingface.reward_models import CASES, put_on
from tests.inprocess.backends import body_of, make_safe, options_of, tokens_read
from tests.inprocess.backends import load as load_backend
from tests.inprocess.test_reward_models import QUESTION, STEPS, extended, one, step
from tests.llamacpp.gguf_files import embedded

START, FIRST = extended([]), step(STEPS[0])
pytestmark = pytest.mark.filterwarnings("ignore:.*not initialized.*")


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    return tmp_path_factory.mktemp("originals")


@pytest.fixture
def copy(originals: Folder, tmp_path: Folder) -> Any:
    """A checkpoint to be changed, with its original body next to it."""

    def one(name: str) -> Folder:
        if not (originals / name).exists():
            body_of(name, make_safe(name, originals / name))
        shutil.copy(originals / f"{name}.gguf", tmp_path / f"{name}.gguf")
        return Folder(shutil.copytree(originals / name, tmp_path / name))

    return one


def beside(folder: Folder) -> Folder:
    """The body of a checkpoint that `copy` has made."""
    return folder.with_name(f"{folder.name}.gguf")


def refused(told: str, folder: Folder, **options: Any) -> None:
    file = options.pop("file", beside(folder))
    with pytest.raises(ConfigurationError, match=told) as error:
        load_verifier(str(file), **{"head": str(folder)} | options)
    assert "\n" not in str(error.value)
    assert str(file) in str(error.value)


# -- scores ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_work_is_charged_as_by_transformers(copy: Any, name: str) -> None:
    folder = copy(name)
    ours, theirs = load_backend("llama.cpp", name, folder), load_backend("transformers", name, folder)
    assert ours.flops_per_token == theirs.flops_per_token
    assert ours.context == theirs.context


def test_the_embedded_reward_model_scores_as_by_transformers(
    verifier: HuggingFaceVerifier, questions: list[str]
) -> None:
    model = load(f"prm:gguf={embedded('prm')},head={FOLDER / 'prm'}")
    texts = ["On Monday she buys 12 more: 45+12=57.\n\n", "She has 57.\n\n", "No.\n\n", "The answer is \\boxed{57}."]
    for question in questions[:10]:
        path = Path(as_prompt(question))
        for at, text in enumerate(texts):
            candidates = [Step(one, "delimiter") for one in (text, texts[at - 1])]
            ours, theirs = (asyncio.run(each.score(path, candidates)) for each in (model, verifier))
            assert ours.rewards == pytest.approx(theirs.rewards, abs=1e-3)
            assert ours.usage.computed == theirs.usage.computed
            path = path.extend(candidates[0])
    assert model.flops_per_token == verifier.flops_per_token


def test_a_quantised_body_scores_the_same_alone_and_among_others(copy: Any) -> None:
    folder = copy("qwen")
    body = to_gguf.export(str(folder), folder.with_name("q8.gguf"), type="q8_0")
    model = load_verifier(str(body), head=str(folder), batch_invariant=True)
    assert model.batch_invariant

    async def all_at_once() -> list[float | None]:
        calls = [model.score(extended(STEPS[:n]), [step(STEPS[n])]) for n in range(len(STEPS))]
        return [scores.rewards[0] for scores in await asyncio.gather(*calls)]

    together = asyncio.run(all_at_once())
    assert together == [one(model, extended(STEPS[:n]), STEPS[n]) for n in range(len(STEPS))]
    exact = CASES["qwen"].rewards(folder, QUESTION, STEPS)
    assert together == pytest.approx(exact, abs=0.2)
    assert together != pytest.approx(exact, abs=1e-6)


def test_accents_are_composed_as_by_transformers(copy: Any) -> None:
    """Vocabularies of Qwen do that before they split a text; llama.cpp leaves it out."""
    folder = copy("qwen")
    ours, theirs = (load_backend(backend, "qwen", folder) for backend in ("llama.cpp", "transformers"))
    seats = step("Each cafe\u0301 has 3 seats.")
    assert ours.explain(START, seats).tokens == theirs.explain(START, seats).tokens


def test_logits_are_not_computed_for_a_whole_prompt(copy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """They would take more memory than the model, where the vocabulary is large."""
    folder = copy("qwen")
    model = load_backend("llama.cpp", "qwen", folder)
    monkeypatch.setattr(model.runner, "most_outputs", 8)
    with tokens_read(model) as counts:
        scores = asyncio.run(model.score(START, [FIRST]))
    assert counts == [scores.usage.computed - 1, 1]
    assert scores.rewards == pytest.approx(CASES["qwen"].rewards(folder, QUESTION, STEPS[:1]), abs=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_heads_are_read_in_the_type_they_are_in(copy: Any, dtype: torch.dtype) -> None:
    folder = copy("actprm")
    file = folder / "model.safetensors"
    save_file({name: tensor.to(dtype) for name, tensor in load_file(file).items()}, file, metadata={"format": "pt"})
    read = SafetensorsFiles(folder, "actprm")
    for name, tensor in load_file(file).items():
        assert read.shapes[name] == tuple(tensor.shape)
        assert np.array_equal(read.read(name), tensor.float().numpy()), name


def test_a_context_may_be_longer_than_the_training(copy: Any) -> None:
    folder, long = copy("skywork"), Step("7" * 600, "end")
    with pytest.raises(VerifierError, match=r"the context of .*skywork.* is 512.*context="):
        asyncio.run(load_backend("llama.cpp", "skywork", folder).score(START, [long]))
    ours, theirs = (load_backend(backend, "skywork", folder, context=1024) for backend in ("llama.cpp", "transformers"))
    rewards = asyncio.run(theirs.score(START, [long])).rewards
    assert asyncio.run(ours.score(START, [long])).rewards == pytest.approx(rewards, abs=1e-4)


def test_no_torch_is_needed() -> None:
    program = """
import asyncio, sys
from rsd_core import Path, Step, as_prompt, load
model = load(sys.argv[1])
print(asyncio.run(model.score(Path(as_prompt("Mia has 45 apples.")), [Step("45+12=57.", "end")])).rewards[0])
assert not {"torch", "transformers"} & set(sys.modules)
"""
    spec = f"prm:gguf={embedded('prm')},head={FOLDER / 'prm'}"
    run = subprocess.run([sys.executable, "-c", program, spec], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    here = load_transformers(str(FOLDER / "prm")).score(
        Path(as_prompt("Mia has 45 apples.")), [Step("45+12=57.", "end")]
    )
    assert [float(run.stdout)] == pytest.approx(asyncio.run(here).rewards, abs=1e-3)


# -- formats -----------------------------------------------------------------------------------------------------------


def test_specs_name_body_and_head_in_either_order(copy: Any) -> None:
    folder = copy("trl")
    body = beside(folder)
    wanted = CASES["trl"].rewards(folder, QUESTION, STEPS[:1])
    for spec in (f"prm:gguf={body},head={folder},separator=\\n\\n", f"prm,separator=\\n\\n,head={folder}:gguf={body}"):
        assert asyncio.run(load(spec).score(START, [FIRST])).rewards == pytest.approx(wanted, abs=1e-5)


def test_models_that_judge_by_words_need_no_head(copy: Any) -> None:
    folder = copy("math-shepherd")
    model = load_verifier(str(beside(folder)), format="math-shepherd")
    wanted = CASES["math-shepherd"].rewards(folder, QUESTION, STEPS[:1])
    assert asyncio.run(model.score(START, [FIRST])).rewards == pytest.approx(wanted, abs=1e-5)


def test_a_format_is_known_by_what_the_file_says(copy: Any, tmp_path: Folder) -> None:
    """`rsd export` writes it down, where a name has told it, or the user."""
    folder = copy("versaprm")
    body = to_gguf.export(str(folder), tmp_path / "named.gguf", format="versaprm")
    assert load_verifier(str(body)).reader.format.name == "versaprm"
    assert load_verifier(str(body), format="rlhflow").reader.format.name == "rlhflow"


@pytest.mark.parametrize(
    "file",
    ["math-shepherd-mistral-7b-prm.Q4_K_M.gguf", "Math-Shepherd-Mistral-7B-PRM-F32.gguf", "math-psa.i1-IQ4_XS.gguf"],
)
def test_a_format_is_known_by_the_name_of_a_published_model(copy: Any, tmp_path: Folder, file: str) -> None:
    name = "openr" if "psa" in file else "math-shepherd"
    folder = copy(name)
    body = to_gguf.export(str(folder), tmp_path / file)
    assert load_verifier(str(body)).reader.format.name == name


def test_a_format_is_known_by_the_head_or_by_the_folder(copy: Any, tmp_path: Folder) -> None:
    folder = copy("qwen")
    body = str(beside(folder))
    assert load_verifier(body, head=str(folder)).reader.format.name == "qwen2.5-math-prm"
    known = folder.rename(tmp_path / "ReasonFlux-PRM-7B")
    bare = to_gguf.export(str(known), tmp_path / "bare.gguf")
    assert load_verifier(str(bare), head=str(known)).reader.format.name == "qwen2.5-math-prm-bare"


# -- refusals ----------------------------------------------------------------------------------------------------------


def test_models_without_a_head_are_distinguished(copy: Any, tmp_path: Folder) -> None:
    folder = copy("qwen")
    with pytest.raises(ConfigurationError, match=r"qwen2\.5-math-prm have a reward head.*prm:gguf=.*,head=FOLDER"):
        load_verifier(str(beside(folder)))
    plain = to_gguf.export(str(copy("openr")), tmp_path / "plain.gguf")
    with pytest.raises(ConfigurationError, match=r"prm,format=math-shepherd:gguf=.*plain\.gguf"):
        load_verifier(str(plain))


def test_a_missing_folder_and_one_without_the_head_are_refused(copy: Any) -> None:
    folder = copy("skywork")
    refused("there is no folder '.*nowhere'", folder, head=str(folder / "nowhere"))
    body = {name: t for name, t in load_file(folder / "model.safetensors").items() if "v_head" not in name}
    save_file(body, folder / "model.safetensors", metadata={"format": "pt"})
    refused("the reward head of the format skywork-prm .* is missing from its weights", folder, format="skywork-prm")
    (folder / "model.safetensors").write_bytes(b"\0" * 100)
    refused(r"model\.safetensors is damaged", folder)


@pytest.mark.parametrize(("name", "tensor"), [("skywork", "v_head.summary.weight"), ("qwen", "score.0.weight")])
def test_a_head_of_another_width_is_refused(copy: Any, name: str, tensor: str) -> None:
    folder = copy(name)
    put_on(folder, {tensor: load_file(folder / "model.safetensors")[tensor][:, :48].contiguous()})
    told = rf"{tensor} of its reward head has the shape \[\d+, 48\] but must accept the 64 outputs of the body"
    refused(told, folder)
    with pytest.raises(ConfigurationError, match=told):
        load_transformers(str(folder))


def test_layers_that_do_not_follow_each_other_are_refused(copy: Any) -> None:
    folder = copy("qwen")
    put_on(folder, {"score.2.weight": torch.zeros(2, 32)})
    refused(r"score\.2\.weight.* must accept the 64 outputs of score\.0\.weight", folder)


def test_invalid_numbers_are_refused(copy: Any) -> None:
    folder = copy("skywork")
    put_on(folder, {"v_head.summary.bias": torch.tensor([float("nan")])})
    refused(r"the tensor v_head\.summary\.bias is not finite", folder)
    put_on(folder, {"v_head.summary.bias": torch.tensor([1])})
    refused(r"v_head\.summary\.bias is of the type I64", folder)


def test_pickles_are_refused_with_the_way_out(copy: Any) -> None:
    flux = copy("reasonflux-1.5b")
    (flux / "reward_head.safetensors").unlink()
    refused(r"reward_head\.pt is a pickle.*safetensors\.torch\.save_file.*'reward_head\.safetensors'", flux)
    universal = copy("universal")
    (universal / "model.safetensors").unlink()
    refused(r"pytorch_model\.bin is a pickle.*'model\.safetensors'", universal)


def test_a_body_with_another_vocabulary_is_refused(copy: Any, tmp_path: Folder) -> None:
    folder, other = copy("qwen"), copy("rlhflow")
    refused("the vocabularies of file and head differ; .* has the id", folder, file=beside(other))
    shown = folder / "tokenizer.json"
    shown.write_text(shown.read_text().replace("<extra_0>", "<extra_9>"))
    refused("'<extra_9>' has the id .* and none in the GGUF file", folder)
    shown.unlink()  # the file's own is enough
    assert options_of("qwen") == {}
    load_verifier(str(beside(folder)), head=str(folder))


def test_a_separator_that_cannot_be_is_refused(copy: Any) -> None:
    folder = copy("qwen")
    refused("reads scores at <extra_0>", folder, separator="\n\n")
    refused("trained with different separators", copy("trl"))


@pytest.mark.parametrize("text", ["{", "[1]", "null"])
@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_a_damaged_file_next_to_the_head_is_reported(name: str, text: str, tmp_path: Folder) -> None:
    folder = tmp_path / "head"
    shutil.copytree(FOLDER / "prm", folder)
    (folder / name).write_text(text)
    with pytest.raises(ConfigurationError, match=f"{name} is damaged .*fetch it again"):
        load_verifier(str(embedded("prm")), head=str(folder))

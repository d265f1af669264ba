"""Faults of a reward model or its input are reported with their name and the remedy; nothing scores at random."""

import asyncio
import json
import re
import shutil
from argparse import Namespace
from pathlib import Path as Folder
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from rsd_core import ConfigurationError, Path, PromptError, Step, VerifierError, as_prompt, load
from rsd_integrations.huggingface import load_verifier
from rsd_integrations.prm_formats import FORMATS, find_format
from tests.huggingface.reward_models import CASES, make, put_on, weights

START = Path(as_prompt("Mia has 45 apples."))
STEP = Step("45+12=57.\n\n", "delimiter")


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    return tmp_path_factory.mktemp("originals")


@pytest.fixture
def copy(originals: Folder, tmp_path: Folder) -> Any:
    def one(name: str) -> Folder:
        if not (originals / name).exists():
            make(name, originals / name)
        return Folder(shutil.copytree(originals / name, tmp_path / f"my-{name}"))

    return one


def drop(folder: Folder, pattern: str) -> Folder:
    for file in folder.glob("*.safetensors"):
        kept = {name: t for name, t in load_file(file).items() if not re.search(pattern, name)}
        save_file(kept, file, metadata={"format": "pt"})
    return folder


def renamed(folder: Folder, old: str, new: str) -> Folder:
    for file in (*folder.glob("tokenizer*.json"), *folder.glob("*.jinja")):
        file.write_text(file.read_text().replace(old, new))
    return folder


def refused(folder: Folder | str, told: str, **options: Any) -> None:
    with pytest.raises(ConfigurationError, match=told) as error:
        load_verifier(str(folder), **options)
    assert str(folder) in str(error.value)


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("skywork", "v_head"),
        ("skywork", "v_head.summary.bias"),
        ("skywork-sharded", "v_head.summary.weight"),
        ("qwen", r"score\.2"),
        ("qwen", r"score\.0\.weight"),
        ("actprm", r"score\.model\.nn2"),
        ("trl", "score"),
        ("outcome", "score"),
    ],
)
def test_a_missing_head_is_an_error_whether_the_format_is_detected_or_named(copy: Any, name: str, tensor: str) -> None:
    folder = drop(copy(name), tensor)
    refused(folder, "no known reward head")
    formats = {"skywork-sharded": "skywork-prm", "skywork": "skywork-prm", "qwen": "qwen2.5-math-prm", "trl": "trl"}
    named: dict[str, Any] = {"format": formats.get(name, name)} | CASES[name].options
    refused(folder, r"reward head of the format .* is missing.*random", **named)


def test_a_known_name_without_its_head_is_an_error(copy: Any, tmp_path: Folder) -> None:
    folder = drop(copy("skywork"), "v_head").rename(tmp_path / "Skywork-o1-Open-PRM-Qwen-2.5-1.5B")
    refused(folder, "reward head of the format skywork-prm .* is missing")


def test_a_head_of_another_shape_is_not_a_head(copy: Any) -> None:
    folder = put_on(copy("qwen"), {"score.2.weight": torch.zeros(3, 64), "score.2.bias": torch.zeros(3)})
    refused(folder, "missing from its weights, or has another shape", format="qwen2.5-math-prm")


def test_a_head_without_output_words_is_an_error(copy: Any) -> None:
    refused(drop(copy("math-shepherd"), "lm_head"), "no output head", format="math-shepherd")


def test_what_a_trainer_left_next_to_pickled_weights_is_not_read(copy: Any) -> None:
    folder = copy("universal")
    torch.save(Namespace(learning_rate=1e-5), folder / "training_args.bin")
    load_verifier(str(folder), **CASES["universal"].options)


def test_language_models_have_to_name_their_format(copy: Any) -> None:
    refused(copy("math-shepherd"), "prm,format=math-shepherd:")


@pytest.mark.parametrize("name", ["my-PRM", "MathPRM-8B", "llama_prm_v2", "process-reward-7b", "stepwise-verifier"])
def test_a_scalar_head_of_a_model_of_steps_is_asked_for_its_format(copy: Any, tmp_path: Folder, name: str) -> None:
    folder = copy("outcome").rename(tmp_path / name)
    refused(folder, rf"its name \({name}\) says that it judges steps.*format=outcome if it does judge whole answers")
    assert load_verifier(str(folder), format="outcome").reader.format.name == "outcome"


@pytest.mark.parametrize(
    "config",
    [{"architectures": ["Qwen2ForProcessRewardModel"]}, {"architectures": ["LlamaPRM"]}, {"step_token": "ки"}],
    ids=str,
)
def test_its_configuration_may_say_so(copy: Any, config: dict[str, Any]) -> None:
    refused(put_on(copy("outcome"), {}, **config), "config.json.*says that it judges steps")


@pytest.mark.parametrize("name", ["global_step_500", "Supreme-RM", "Step-3-RM", "PRMBench-judge", "checkpoint-9-step"])
def test_a_name_that_only_looks_like_it_is_an_outcome_model(copy: Any, tmp_path: Folder, name: str) -> None:
    assert load_verifier(str(copy("outcome").rename(tmp_path / name))).reader.format.name == "outcome"


def test_weights_that_are_not_finite_or_missing_are_errors(copy: Any) -> None:
    refused(put_on(copy("skywork"), {"v_head.summary.bias": torch.tensor([float("nan")])}), "not finite")
    refused(drop(copy("qwen"), r"layers\.1\.mlp"), "tensors of the body are missing in its weights")


def test_pickles_are_read_only_where_they_are_trusted(copy: Any) -> None:
    refused(copy("universal"), "allow_pickles", format="universal-prm")
    refused(copy("reasonflux-1.5b"), r"reward_head\.pt.*allow_pickles")


def test_a_separate_head_in_safetensors_is_not_a_pickle(copy: Any) -> None:
    folder = copy("reasonflux-1.5b")
    wanted = CASES["reasonflux-1.5b"].rewards(folder, "Mia has 45 apples.", ["45+12=57."])
    save_file(torch.load(folder / "reward_head.pt", weights_only=True), folder / "reward_head.safetensors")
    (folder / "reward_head.pt").unlink()
    model = load_verifier(str(folder))
    assert asyncio.run(model.score(START, [STEP])).rewards == pytest.approx(wanted, abs=1e-5)


def test_unknown_formats_and_architectures_are_reported(copy: Any) -> None:
    refused(copy("qwen"), "unknown format 'nonsense'; known are skywork-prm", format="nonsense")
    refused(put_on(copy("skywork"), {}, model_type="mamba9"), "no native model of the type 'mamba9'")


def test_adapters_are_to_be_merged(tmp_path: Folder) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    refused(tmp_path, "merge it into its base")


@pytest.mark.parametrize(
    ("name", "old"), [("qwen", "<extra_0>"), ("math-shepherd", "ки"), ("actprm", "<extra_0>"), ("qwen", "im_start")]
)
def test_a_tokenizer_without_the_tokens_of_the_format_is_refused(copy: Any, name: str, old: str) -> None:
    folder = copy(name)
    if old == "im_start":
        (folder / "chat_template.jinja").unlink()
        refused(folder, "no chat template")
    elif name == "math-shepherd":
        told = json.loads((folder / "tokenizer.json").read_text())
        told["model"]["merges"] = [pair for pair in told["model"]["merges"] if pair != ["к", "и"]]
        (folder / "tokenizer.json").write_text(json.dumps(told))
        refused(folder, "no token ' ки'", format="math-shepherd")
    else:
        refused(renamed(folder, old, "<extra_9>"), "no token '<extra_0>'")


def test_separators_that_cannot_be_are_refused(copy: Any) -> None:
    refused(copy("trl"), "trained with different separators")
    refused(copy("qwen"), r"reads scores at <extra_0>.*Omit the separator", separator="\n\n")
    skywork = copy("skywork")
    refused(skywork, "no token '</step>'", separator="</step>")
    refused(skywork, "trained with different separators", separator="")


def test_a_template_that_cuts_the_problem_is_an_error(copy: Any) -> None:
    folder = copy("qwen")
    template = (folder / "chat_template.jinja").read_text()
    (folder / "chat_template.jinja").write_text(template.replace("message['content']", "message['content'][:12]"))
    model = load_verifier(str(folder))
    with pytest.raises(PromptError, match="drops or truncates the system message"):
        asyncio.run(model.score(START, [STEP]))


def test_overlong_and_empty_input_is_reported(copy: Any) -> None:
    folder = copy("skywork")
    model = load_verifier(str(folder))
    with pytest.raises(VerifierError, match=r"the context of .*skywork.* is 512.*context="):
        asyncio.run(model.score(START, [Step("7" * 600, "end")]))
    with pytest.raises(PromptError, match="the context of"):
        asyncio.run(model.score(Path(as_prompt("7 " * 600)), [STEP]))
    with pytest.raises(VerifierError, match=r"skywork.*blank"):
        asyncio.run(model.score(START, [Step(" \n\n", "delimiter")]))
    longer = load_verifier(str(folder), context=1024)
    assert asyncio.run(longer.score(START, [Step("7" * 600, "end")])).rewards[0] is not None


def test_an_overlong_step_leaves_what_was_read_usable(copy: Any) -> None:
    model = load_verifier(str(copy("skywork")))
    first = asyncio.run(model.score(START, [STEP])).rewards
    with pytest.raises(VerifierError):
        asyncio.run(model.score(START, [STEP, Step("7" * 600, "end")]))
    assert asyncio.run(model.score(START, [STEP])).rewards == pytest.approx(first, abs=1e-6)


def test_separators_inside_a_step_are_not_further_steps(copy: Any) -> None:
    model = load_verifier(str(copy("qwen")))
    told = model.explain(START, Step("45<extra_0>+12", "end"))
    assert [name for _, name in told.tokens].count("<extra_0>") == 1
    assert told.read == (len(told.tokens) - 1,)


def test_only_the_problem_is_in_the_prompt(copy: Any) -> None:
    asked = as_prompt([("system", "Be brief."), ("tools", "[]"), ("user", "Mia has 45 apples.")])
    for name in ("qwen", "skywork"):
        model = load_verifier(str(copy(name)), **CASES[name].options)
        assert model.explain(Path(asked), STEP).text == model.explain(START, STEP).text


def test_specs_carry_options(copy: Any) -> None:
    folder = copy("trl")
    model = load(f"prm,format=trl,separator=\\n\\n:{folder}")
    wanted = CASES["trl"].rewards(folder, "Mia has 45 apples.", ["45+12=57."])
    assert asyncio.run(model.score(START, [STEP])).rewards == pytest.approx(wanted, abs=1e-5)
    with pytest.raises(ConfigurationError, match="option of prm 'separators', did you mean 'separator'"):
        load(f"prm,separators=x:{folder}")


def test_every_listed_model_is_known_by_its_name() -> None:
    for made in FORMATS.values():
        for model in made.models:
            assert find_format({}, {}, model) is made
            assert find_format({}, {}, f"/models/{model.rpartition('/')[2]}/") is made


def test_label_order_is_the_published_one(copy: Any) -> None:
    # Qwen2.5-Math-PRM: [wrong, right], index 1 (vLLM's golden values: a right step [0.0006, 0.9995]).
    folder = put_on(
        copy("qwen"), {"score.2.weight": torch.zeros(2, 64), "score.2.bias": torch.tensor([0.000636, 0.99951]).log()}
    )
    assert list(asyncio.run(load_verifier(str(folder)).score(START, [STEP])).rewards) == pytest.approx(
        [0.99936], abs=1e-4
    )
    # Words: "+" is right, in whatever order a paper lists the two.
    for name in ("math-shepherd", "rlhflow", "versaprm"):
        model = load_verifier(str(copy(name)), **CASES[name].options)
        rows = [model.reader.words()]
        assert rows[0] is not None
        right = model.vocabulary.tokenizer.convert_ids_to_tokens([rows[0][0]])
        assert str(right[0]).strip("▁Ġ") == "+"
    assert set(weights(folder)) >= {"score.2.bias"}

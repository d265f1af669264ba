"""Fields of a single request: the same model in process, whose chat template gets other arguments."""

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path as Folder
from typing import Any

import pytest

from rsd_core import ConfigurationError, Path, RewardGuidedDecoder, Step, StepRequest, as_prompt, load
from rsd_core.testing import ScriptedTarget, ScriptedVerifier
from rsd_integrations.embedded.models import FOLDER
from rsd_integrations.huggingface import to_gguf
from rsd_integrations.huggingface.from_pretrained import load_tokenizer
from rsd_integrations.inprocess.generator import Generator
from rsd_integrations.inprocess.vocabulary import Vocabulary

QUESTION = "Mia has 45 apples. Then she buys 12 more. How many apples does Mia have now?"
OFF = {"chat_template_kwargs": {"enable_thinking": False}}
EMPTY = "<think>\n\n</think>\n\n"
Thinker = Callable[..., Generator]


@pytest.fixture(scope="module", params=["transformers", "llama.cpp"])
def thinker(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Thinker:
    """Loads a model that thinks, unless its chat template is told otherwise."""
    if request.param == "transformers":
        return lambda **options: load("embedded:thinking-draft", **options)
    file = to_gguf.export(str(FOLDER / "thinking-draft"), tmp_path_factory.mktemp("gguf") / "thinker.gguf")
    return lambda **options: load(f"gguf:{file}", **options)


def written(model: Any, path: Path) -> tuple[Step, int]:
    """The next step, and how many tokens were found in the cache."""
    generation = asyncio.run(model.generate(path, StepRequest((0,), 48)))
    return generation.steps[0], generation.usage.reused


def test_a_request_gets_what_the_spec_with_that_option_gives(thinker: Thinker) -> None:
    model = thinker()
    other, by_spec = model.with_fields(OFF), thinker(template={"enable_thinking": False})
    prompt = as_prompt(QUESTION)
    assert written(other, Path(prompt))[0] == written(by_spec, Path(prompt))[0]
    assert written(other, Path(prompt))[0] != written(model, Path(prompt))[0]
    assert other.thinking(prompt) == by_spec.thinking(prompt)
    assert by_spec.with_fields({"chat_template_kwargs": {"enable_thinking": True}}).thinking(prompt) == (
        model.with_fields({"chat_template_kwargs": {"enable_thinking": True}}).thinking(prompt)
    )


def test_nothing_is_loaded_and_equal_fields_are_one_model(thinker: Thinker) -> None:
    model = thinker()
    other = model.with_fields(OFF)
    assert other is model.with_fields({"reasoning_effort": None, **OFF}) is not model
    assert model.with_fields({}) is model.with_fields({"tool_choice": None}) is model
    assert other.runner is model.runner
    assert other.vocabulary.tokenizer is model.vocabulary.tokenizer
    assert other.vocabulary.identity == model.vocabulary.identity
    assert other.with_fields({"chat_template_kwargs": {"enable_thinking": True}}) is not other


def test_what_is_cached_for_a_path_is_right_for_both_renderings(thinker: Thinker) -> None:
    model = thinker()
    other, path = model.with_fields(OFF), Path(as_prompt(QUESTION))
    for one in (model, other, model, other):
        step, _ = written(one, path)
        assert step == written(one, Path(path.prompt))[0]
    first, _ = written(other, path)
    _, reused = written(other, path.extend(first))
    assert reused == len(other.vocabulary.ids(path.extend(first))[0]) - 1  # the last token has to be read for the next


def test_threads_may_ask_for_both_at_once(thinker: Thinker) -> None:
    model = thinker()
    both = [model, model.with_fields(OFF)]
    right = [written(one, Path(as_prompt(QUESTION)))[0] for one in both]
    found: list[tuple[int, Step]] = []

    def ask(number: int) -> None:
        found.append((number % 2, written(both[number % 2], Path(as_prompt(QUESTION)))[0]))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert all(step == right[which] for which, step in found)


def test_a_request_of_both_roles_thinks_or_does_not() -> None:
    def answer(fields: dict[str, Any]) -> Any:
        draft, target = (load(f"embedded:thinking-{role}").with_fields(fields) for role in ("draft", "target"))
        decoder = RewardGuidedDecoder(drafter=draft, verifier=ScriptedVerifier([0.9, 0.1] * 40), target=target)
        return decoder.run(QUESTION)

    assert answer({}).thought
    quick = answer(OFF)
    assert (quick.thought, quick.answer) == ("", "57")
    assert {step.author for step in quick.steps} == {"draft", "target"}


def test_what_a_model_cannot_honour_is_refused_with_what_it_can(thinker: Thinker) -> None:
    model = thinker()
    cases: list[tuple[dict[str, Any], str]] = [
        ({"chat_template_kwargs": {"thinking": False}}, r"chat_template_kwargs: unknown template argument 'thinking', "
         r"did you mean 'enable_thinking'\? known are enable_thinking"),
        ({"chat_template_kwargs": {"add_generation_prompt": False}}, "known are enable_thinking"),
        ({"chat_template_kwargs": {"enable_thinking": "false"}}, "enable_thinking takes true or false"),
        ({"reasoning_effort": "low"}, "reasoning_effort: unknown template argument 'reasoning_effort'.*known are ena"),
        ({"tool_choice": "required"}, "cannot honour tool_choice='required': it generates text"),
        ({"parallel_tool_calls": False}, "cannot honour parallel_tool_calls=False"),
    ]  # fmt: skip
    for fields, told in cases:
        with pytest.raises(ConfigurationError, match=told) as caught:
            model.with_fields(fields)
        assert model.name in str(caught.value)
    same = model.with_fields(
        {"tool_choice": "auto", "parallel_tool_calls": True, "response_format": {"type": "text"}, **OFF}
    )
    assert same.thinking(as_prompt(QUESTION)) == model.with_fields(OFF).thinking(as_prompt(QUESTION))


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"reasoning_efort": "low"}, "unknown field of a request 'reasoning_efort', did you mean 'reasoning_effort'"),
        ({"chat_template_kwargs": ["enable_thinking"]}, "chat_template_kwargs takes chat template arguments by name"),
        ({"reasoning_effort": 3}, "reasoning_effort takes a text such as low"),
        ({"parallel_tool_calls": "no"}, r"parallel_tool_calls takes true or false \(got 'no'\)"),
        ({"chat_template_kwargs": {"enable_thinking": float("nan")}}, "chat_template_kwargs: a value is not JSON"),
    ],
)
def test_an_invalid_field_is_refused(fields: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        load("embedded:draft").with_fields(fields)


def test_a_model_of_somebody_elses_takes_no_fields_unless_it_says_so() -> None:
    model = ScriptedTarget(["x"])
    assert model.with_fields({}) is model
    with pytest.raises(ConfigurationError, match="does not accept reasoning_effort in a single request: omit it"):
        model.with_fields({"reasoning_effort": "low"})


def test_the_effort_is_an_argument_of_templates_that_read_it() -> None:
    tokenizer = load_tokenizer(Folder(FOLDER / "draft"))
    tokenizer.chat_template = "{{ reasoning_effort | default('medium') }} {{ style | default('plain') }}: " + (
        "{% for m in messages %}{{ m.content }}{% endfor %}"
    )
    words, prompt = Vocabulary(tokenizer, 1, {"reasoning_effort": "high"}), as_prompt("Why?")
    assert words.prompt_text(prompt) == "high plain: Why?"
    low = words.with_fields({"reasoning_effort": "low", "chat_template_kwargs": {"style": "short"}})
    assert low.prompt_text(prompt) == "low short: Why?"
    assert words.prompt_text(prompt) == "high plain: Why?"
    assert low.pieces is words.pieces
    assert low.ids(Path(prompt))[0] == words.encode("low short: Why?")
    tokenizer.chat_template = None
    with pytest.raises(ConfigurationError, match="reasoning_effort: there is no chat template for reasoning_effort"):
        Vocabulary(tokenizer, 1).with_fields({"reasoning_effort": "low"})

"""The input of a model in process: template arguments, opened thoughts, begun responses, later messages."""

from __future__ import annotations

import asyncio
from pathlib import Path as Folder
from typing import Any

import pytest

from rsd_core import ConfigurationError, Markers, Message, Path, PromptError, Step, Thinking, as_prompt, load
from rsd_core.thoughts.markers import MARKERS
from rsd_integrations.huggingface import HuggingFaceGenerator, load_generator, load_likelihood, loading
from rsd_integrations.huggingface.bare_tokenizer import BareTokenizer
from rsd_integrations.inprocess.vocabulary import Vocabulary
from tests.huggingface import thinking
from tests.huggingface.thinking import HARMONY, PLAIN, QWEN, R1, SWITCH, make_thinker

QUESTION = "Mia has 45 apples."
ASKED = f"<|im_start|>user\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n"
THINK = MARKERS["think"]
EMPTY = "<think>\n\n</think>\n\n"


def vocabulary(template: str, **arguments: Any) -> Vocabulary:
    made = thinking.tokenizer(template)
    return Vocabulary(made, len(made), arguments)


def read(words: Vocabulary, path: Path) -> str:
    """The text that a model reads of a path, by the ids."""
    ids, _ = words.ids(path)
    text: Any = words.tokenizer.decode(ids)
    assert words.path_text(path) == text
    return str(text)


def opened(prompt: Any, opening: str) -> Path:
    return Path(as_prompt(prompt), thinking=Thinking(THINK, opening))


@pytest.mark.parametrize("kind", ["hf", "likelihood"])
def test_a_spec_and_python_give_the_same_arguments_to_a_chat_template(tmp_path: Folder, kind: str) -> None:
    folder = make_thinker(tmp_path / "model", QWEN)
    by_spec = load(f"{kind},template.enable_thinking=false:{folder}")
    loader: Any = load_generator if kind == "hf" else load_likelihood
    for model in (by_spec, loader(str(folder), template={"enable_thinking": False})):
        assert read(model.vocabulary, Path(as_prompt(QUESTION))) == ASKED + EMPTY
    assert read(load(f"{kind}:{folder}").vocabulary, Path(as_prompt(QUESTION))) == ASKED
    judge = load(f"judge:hf,template.enable_thinking=false:{folder}")
    assert read(judge.model.vocabulary, Path(as_prompt(QUESTION))) == ASKED + EMPTY


def test_a_tokenizer_without_transformers_renders_the_same(tmp_path: Folder) -> None:
    bare = BareTokenizer(make_thinker(tmp_path / "model", QWEN))
    for arguments in ({}, {"enable_thinking": False}, {"enable_thinking": True}):
        own = Vocabulary(bare, 1, arguments)
        other = vocabulary(QWEN, **arguments)
        for prompt in (as_prompt(QUESTION), as_prompt([("user", QUESTION), ("assistant", "So")])):
            assert own.ids(Path(prompt)) == other.ids(Path(prompt))
            assert own.thinking(prompt) == other.thinking(prompt)
        after = [Message("user", "Right?"), Message("assistant", "It is ")]
        assert own.asked(Path(as_prompt(QUESTION)), after) == other.asked(Path(as_prompt(QUESTION)), after)


def test_an_argument_that_a_template_does_not_use_is_refused_before_weights_are_read(
    tmp_path: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_thinker(tmp_path / "model", QWEN)
    monkeypatch.setattr(loading, "load_causal_lm", lambda *_: pytest.fail("weights were read"))
    for wrong in ({"enable_thinkin": False}, {"add_generation_prompt": False}, {"eos_token": "x"}):
        with pytest.raises(ConfigurationError, match=r"template argument.*known are enable_thinking$"):
            load_generator(str(folder), template=wrong)
    for value in ("false", 0, None):
        with pytest.raises(ConfigurationError, match=r"enable_thinking takes true or false \(got"):
            load_generator(str(folder), template={"enable_thinking": value})
    with pytest.raises(ConfigurationError, match=r"template takes arguments by name.*got 5"):
        load(f"likelihood,template=5:{folder}")
    with pytest.raises(ConfigurationError, match="did you mean 'enable_thinking'"):
        load(f"likelihood,template.enable_thinkin=false:{folder}")
    with pytest.raises(ConfigurationError, match="takes no arguments"):
        load("embedded,template.enable_thinking=false:draft")
    without = thinking.tokenizer(PLAIN)
    without.chat_template = None
    with pytest.raises(ConfigurationError, match="no chat template for enable_thinking"):
        Vocabulary(without, len(without), {"enable_thinking": False})


@pytest.mark.parametrize(
    ("template", "arguments", "system", "opening", "off"),
    [
        (QWEN, {}, "", "", False),
        (QWEN, {"enable_thinking": True}, "", "", False),
        (QWEN, {"enable_thinking": False}, "", EMPTY, True),
        (R1, {}, "", "<think>\n", False),
        (SWITCH, {}, "Be brief.", "<think>\n", False),
        (SWITCH, {}, "Be brief. /no_think", "<think></think>", True),
        (HARMONY, {}, "", "", False),
        (PLAIN, {}, "", "", True),
    ],
)
def test_a_template_tells_how_the_model_thinks(
    template: str, arguments: dict[str, Any], system: str, opening: str, off: bool
) -> None:
    words = vocabulary(template, **arguments)
    prompt = as_prompt([*([("system", system)] if system else []), ("user", QUESTION)])
    told = words.thinking(prompt)
    assert told is not None
    assert (told.opening, told.is_off) == (opening, off)
    markers = {HARMONY: MARKERS["harmony"], PLAIN: None}.get(template, THINK)
    assert (told.markers and told.markers.open) == (markers and markers.open)
    assert read(words, Path(prompt)).endswith(opening)


def test_a_template_that_thinks_only_where_it_is_asked_to() -> None:
    asked = QWEN.replace("enable_thinking is false", "enable_thinking").replace("\n\n</think>\n\n", "\n")
    told = [
        vocabulary(asked, **arguments).thinking(as_prompt(QUESTION)) for arguments in ({}, {"enable_thinking": True})
    ]
    assert [one and (one.is_off, one.opening) for one in told] == [(True, ""), (False, "<think>\n")]


def test_nothing_is_said_where_only_the_tokens_tell_of_thoughts() -> None:
    made = thinking.tokenizer(QWEN)
    made.chat_template = PLAIN
    assert Vocabulary(made, len(made)).thinking(as_prompt(QUESTION)) is None
    made.chat_template = None
    assert Vocabulary(made, len(made)).thinking(as_prompt(QUESTION)) is None


def test_a_prompt_is_rendered_once_or_twice_for_all_that_asks_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for template, renderings in ((QWEN, 1), (PLAIN, 1), (R1, 2)):
        words = vocabulary(template)
        words.thinking(as_prompt("Another."))
        calls: list[bool] = []
        render = words.tokenizer.apply_chat_template

        def counted(*args: Any, render: Any = render, calls: list[bool] = calls, **options: Any) -> Any:
            calls.append(options["add_generation_prompt"])
            return render(*args, **options)

        monkeypatch.setattr(words.tokenizer, "apply_chat_template", counted)
        prompt = as_prompt(QUESTION)
        told = words.thinking(prompt)
        path = Path(prompt, thinking=told)
        words.ids(path)
        words.ids(path.extend(Step("So.\n\n", "delimiter")))
        assert len(calls) == renderings


@pytest.mark.parametrize("template", [QWEN, R1, SWITCH])
@pytest.mark.parametrize("opening", ["", "<think>\n"])
def test_the_opening_that_models_agree_on_takes_the_place_of_the_templates_own(template: str, opening: str) -> None:
    path = opened(QUESTION, opening)
    for text in ("First.\n\n", "So 4.\n</think>\n\n", "It is 4."):
        path = path.extend(Step(text, "delimiter"))
    assert read(vocabulary(template), path) == ASKED + path.text
    assert path.text == opening + "First.\n\nSo 4.\n</think>\n\nIt is 4."


def test_a_thought_of_a_model_that_does_not_think_itself_is_read_as_it_is() -> None:
    path = opened(QUESTION, "<think>\n").extend(Step("So.\n</think>\n\n", "delimiter"))
    for words in (vocabulary(PLAIN), vocabulary(QWEN, enable_thinking=False)):
        assert read(words, path) == f"{ASKED}<think>\nSo.\n</think>\n\n"
    made = thinking.tokenizer(PLAIN)
    made.chat_template = None
    assert Vocabulary(made, len(made)).path_text(path) == f"{QUESTION}<think>\nSo.\n</think>\n\n"


def test_markers_of_the_users_own_are_text_and_are_opened_once() -> None:
    own = Markers("own", "<|im_start|>why", "<extra_0>")
    template = PLAIN.replace("assistant\n", "assistant\n<|im_start|>why\n")
    words = vocabulary(template)
    path = Path(as_prompt(QUESTION), thinking=Thinking(own))
    assert read(words, path) == ASKED
    ids = words.encode("<|im_start|>why not<extra_0>So<|endoftext|>")
    assert words.of(path).text(ids) == "<|im_start|>why not<extra_0>So"
    words = vocabulary(PLAIN)
    path = Path(as_prompt(QUESTION), thinking=Thinking(Markers("own", "(", ")", end="<extra_0>")))
    assert words.of(path).text(words.encode("So<extra_0><|endoftext|>")) == "So<extra_0>"


@pytest.mark.parametrize("template", [QWEN, R1, SWITCH])
def test_a_begun_response_is_read_as_it_was_written(template: str) -> None:
    words = vocabulary(template)
    asked = {"role": "user", "content": QUESTION}
    thought = {"role": "assistant", "content": "", "reasoning_content": "First.\n\n"}
    both = {"role": "assistant", "content": "It is \n", "reasoning_content": "First.\n\nSo."}
    answer = {"role": "assistant", "content": "It is \n"}
    assert read(words, opened([asked, thought], "")) == f"{ASKED}<think>\nFirst.\n\n"
    assert read(words, Path(as_prompt([asked, both]))) == f"{ASKED}<think>\nFirst.\n\nSo.\n</think>\n\nIt is \n"
    assert read(words, Path(as_prompt([asked, answer]))) == f"{ASKED}It is \n"
    for message in (thought, both, answer):
        told = words.thinking(as_prompt([asked, message]))
        assert told is not None
        assert told.opening == ""


def test_a_begun_thought_has_the_markers_of_the_request() -> None:
    begun = {"role": "assistant", "content": "", "reasoning_content": "First.\n\n"}
    path = Path(as_prompt([{"role": "user", "content": QUESTION}, begun]), thinking=Thinking(Markers("own", "(", ")")))
    assert read(vocabulary(QWEN), path) == f"{ASKED}(First.\n\n"


def test_markers_that_say_most_come_first() -> None:
    words = "Write the thought between <think></think>, and the answer between <response></response>."
    template = PLAIN.replace("{% for", "{% if thinking %}" + words + "{% endif %}{% for", 1)
    told = vocabulary(template, thinking=True).thinking(as_prompt(QUESTION))
    assert told is not None
    assert told.markers is not None
    assert told.markers.name == "granite"


def test_few_renderings_are_kept() -> None:
    template = vocabulary(PLAIN).template
    assert template is not None
    for i in range(100):
        template.rendering(as_prompt(f"{QUESTION} {i}"))
    assert len(template._renderings) == 64


def test_earlier_thoughts_reach_a_template_under_its_own_name_for_them() -> None:
    history = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello.", "reasoning_content": "A greeting."},
        {"role": "user", "content": QUESTION},
    ]
    text = read(vocabulary(HARMONY), Path(as_prompt(history)))
    assert "<|channel|>analysis<|message|>A greeting.<|end|><|start|>assistant<|channel|>final<|message|>Hello." in text
    named = {
        name: PLAIN.replace("{{ m.content }}", "{% if m.NAME %}<think>{{ m.NAME }}</think>{% endif %}{{ m.content }}")
        for name in ("reasoning_content", "reasoning", "thinking")
    }
    for name, template in named.items():
        text = read(vocabulary(template.replace("NAME", name)), Path(as_prompt(history)))
        assert "assistant\n<think>A greeting.</think>Hello.<|im_end|>" in text


def test_a_template_that_refuses_a_prompt_says_why() -> None:
    strict = PLAIN.replace(
        "{% for", "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}{% for", 1
    )
    with pytest.raises(PromptError, match="does not accept this prompt: no system"):
        vocabulary(strict).prompt(as_prompt([("system", "Be brief."), ("user", QUESTION)]))


@pytest.mark.parametrize(
    ("template", "arguments", "reply"),
    [
        (QWEN, {}, "<think>\nThe score is: "),
        (R1, {}, "<think>\nThe score is: "),
        (QWEN, {"enable_thinking": False}, f"{EMPTY}The score is: "),
        (PLAIN, {}, "The score is: "),
    ],
)
def test_a_judged_thought_stays_visible_and_is_read_once(
    tmp_path: Folder, template: str, arguments: dict[str, Any], reply: str
) -> None:
    model = load_generator(str(make_thinker(tmp_path / "model", template)), template=arguments)
    path = opened(QUESTION, "<think>\n").extend(Step("First.\n\n", "delimiter")).extend(Step("So 4.\n\n", "delimiter"))
    after = [Message("user", "Rate it."), Message("assistant", "The score is: ")]
    words = model.vocabulary
    ids = words.asked(path, after)[0]
    text: Any = words.tokenizer.decode(ids)
    asked = f"<|im_end|>\n<|im_start|>user\nRate it.<|im_end|>\n<|im_start|>assistant\n{reply}"
    assert text == f"{ASKED}<think>\nFirst.\n\nSo 4.\n\n{asked}"

    async def judge() -> None:
        assert path.parent is not None
        await model.first_token_entropy(path.parent)
        answer = await model.next_word(path, ["4", "5"], after)
        assert answer.usage.computed == len(ids) - len(words.ids(path.parent)[0])

    asyncio.run(judge())


def test_special_tokens_are_not_text_except_those_that_mark_thoughts(tmp_path: Folder) -> None:
    model: HuggingFaceGenerator = load_generator(str(make_thinker(tmp_path / "model", HARMONY)))
    words = model.vocabulary
    written = "<|channel|>analysis<|message|>So.<|end|><|start|>assistant<|channel|>final<|message|>It is 4."
    ids = words.encode(written)
    assert words.text(ids) == written
    names = thinking.HARMONY_TOKENS
    single = {name: words.tokenizer.get_vocab()[name] for name in names}
    assert [id_ for id_ in ids if id_ in single.values()] == [
        single[name] for name in ("<|channel|>", "<|message|>", "<|end|>", "<|start|>", "<|channel|>", "<|message|>")
    ]
    assert words.text([single["<|return|>"], single["<|call|>"], words.encode("<|im_start|>")[0]]) == ""
    assert single["<|end|>"] not in model.eos_ids
    foreign = Step(written, "delimiter", (1, 2, 3), "another vocabulary")
    assert list(words.ids.after(Path(as_prompt(QUESTION)), [foreign]).feeds[0]) == ids

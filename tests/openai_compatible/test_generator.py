"""Models behind servers write what the same models write in process, whatever the server's habits."""

import asyncio
import math
from collections.abc import Callable
from pathlib import Path as Folder

import pytest

from rsd_core import (
    ConfigurationError,
    Delimiter,
    DraftOnly,
    Limits,
    Path,
    PromptError,
    RewardGuidedDecoder,
    RunError,
    Sampling,
    Settings,
    Step,
    StepRequest,
    TargetOnly,
    as_prompt,
    load,
)
from rsd_core.blocking import wait_for
from rsd_core.testing import ScriptedVerifier
from rsd_integrations.huggingface import HuggingFaceGenerator
from rsd_integrations.openai_compatible import OpenAIGenerator
from rsd_integrations.openai_compatible.answers import StepReader
from rsd_integrations.openai_compatible.profiles import PROFILES
from tests.openai_compatible.conftest import TOKENIZER
from tests.openai_compatible.server import Habits, wait_until

Connect = Callable[..., OpenAIGenerator]
BLANK = Delimiter()
ASKED = StepRequest(seeds=(0,), max_tokens=60)
STEPPING = [
    ("vllm", "completions"),
    ("vllm", "chat"),
    ("sglang", "completions"),
    ("sglang", "chat"),
    ("llamacpp", "completions"),
    ("llamacpp", "chat"),
    ("llama_cpp_python", "completions"),
    ("ollama", "chat"),
    ("transformers", "completions"),
    ("generic", "completions"),
]


def step_of(model: OpenAIGenerator | HuggingFaceGenerator, path: Path, request: StepRequest = ASKED) -> Step:
    return wait_for(model.generate(path, request)).steps[0]


@pytest.mark.parametrize(("kind", "mode"), STEPPING)
def test_answers_over_servers_equal_those_in_process(
    servers: dict[str, Habits],
    connect: Connect,
    draft: HuggingFaceGenerator,
    questions: list[str],
    kind: str,
    mode: str,
) -> None:
    known = {"profile": "transformers"} if kind == "transformers" else {}
    tokenizer = None if mode == "chat" else TOKENIZER
    model = connect(servers[kind], tokenizer, **known)
    for question in questions[:2]:
        wanted = DraftOnly(drafter=draft).run(question)
        made = DraftOnly(drafter=model).run(question)
        assert (made.text, made.finish_reason) == (wanted.text, wanted.finish_reason)
        assert [step.text for step in made.steps] == [step.text for step in wanted.steps]
        if mode == "completions":
            assert made.ledger.drafter.generated == wanted.ledger.drafter.generated
            assert made.ledger.drafter.read > 0
    sent = servers[kind].requests[-1]
    assert isinstance(sent.get("prompt"), list) == (mode == "completions" and kind in ("vllm", "sglang", "llamacpp"))
    assert bool(sent.get("stream")) == (kind in ("llamacpp", "llama_cpp_python", "ollama", "generic"))
    assert (servers[kind].dropped > 0) == bool(sent.get("stream"))  # what comes after the step is not wanted


def test_ids_that_were_sampled_are_kept_and_sent_back(
    vllm: Habits, connect: Connect, draft: HuggingFaceGenerator, questions: list[str]
) -> None:
    """Also where the stop string ends inside a token, which the server's text then cuts."""
    model = connect(vllm)
    path, twin = Path(as_prompt(questions[0])), Path(as_prompt(questions[0]))
    for _ in range(3):
        over, inside = step_of(model, path), step_of(draft, twin)
        assert (over.text, over.tokens, over.vocabulary) == (inside.text, inside.tokens, inside.vocabulary)
        path, twin = path.extend(over), twin.extend(inside)
        assert vllm.requests[-1]["prompt"] == draft.vocabulary.ids(path.parent or path)[0]
    # In pieces that the delimiter does not end with: the whole token belongs to the step.
    cut = step_of(model, Path(as_prompt(questions[0])), StepRequest(seeds=(0,), delimiter="\n"))
    assert cut.text.endswith("\n\n")
    assert cut.text == draft.vocabulary.text(list(cut.tokens))


def test_rsd_over_servers_exchanges_ids_with_models_in_process(
    vllm: Habits, connect: Connect, family: RewardGuidedDecoder, questions: list[str]
) -> None:
    target = family.target
    mixed = RewardGuidedDecoder(drafter=connect(vllm), verifier=family.verifier, target=target, policy=family.policy)
    for question in questions[:1]:
        wanted, made = family.run(question), mixed.run(question)
        assert made.text == wanted.text
        assert [step.reward for step in made.steps] == pytest.approx([step.reward for step in wanted.steps], abs=1e-5)


def test_candidates_are_drawn_by_their_seeds(vllm: Habits, connect: Connect, questions: list[str]) -> None:
    model, path = connect(vllm), Path(as_prompt(questions[0]))
    hot = Sampling(3.0)
    asked = StepRequest(seeds=(5, 2**40 + 7, 5), max_tokens=30, sampling=hot)
    made = wait_for(model.generate(path, asked))
    assert made.steps[0] == made.steps[2]
    assert made.steps[0] != made.steps[1]
    assert sorted(request["seed"] for request in vllm.requests) == [5, 5, (2**40 + 7) % 2**31]
    alone = wait_for(model.generate(path, StepRequest(seeds=(2**40 + 7,), max_tokens=30, sampling=hot)))
    assert alone.steps[0] == made.steps[1]
    assert made.usage.prefix == alone.usage.prefix
    assert len(made.usage.parts) == 3
    assert made.usage.generated == sum(step.size for step in made.steps)


def test_the_ledger_has_the_servers_figures_and_the_users_prices(
    vllm: Habits, connect: Connect, questions: list[str]
) -> None:
    model = connect(vllm, flops_per_token=1e6, prompt_price=2.0, generated_price=10.0, cached_price=1.0)
    result = DraftOnly(drafter=model, settings=Settings(limits=Limits(max_steps=1))).run(questions[0])
    account, read = result.ledger.drafter, len(vllm.requests[-1]["prompt"])
    assert (account.read, account.reused) == (read, read // 2)
    assert account.computed == read - read // 2 + account.generated
    assert account.flops == 1e6 * account.computed
    assert account.cost == pytest.approx(
        (2.0 * (read - read // 2) + 1.0 * (read // 2) + 10.0 * account.generated) / 1e6
    )


def test_a_chat_that_cannot_be_continued_writes_turns_only(
    servers: dict[str, Habits], connect: Connect, draft: HuggingFaceGenerator, questions: list[str]
) -> None:
    model = connect(servers["generic"], None)
    with pytest.raises(ConfigurationError, match="granularity='turn'"):
        DraftOnly(drafter=model).run(questions[0])
    turn = Settings(granularity="turn")
    made = TargetOnly(target=model, settings=turn).run(questions[0])
    assert made.text == TargetOnly(target=draft, settings=turn).run(questions[0]).text
    assert len(made.steps) == 1


@pytest.mark.parametrize("kind", ["llama_cpp_python", "transformers", "generic"])
def test_a_profile_that_promises_what_the_server_does_not_keep_is_found_out(
    servers: dict[str, Habits], connect: Connect, questions: list[str], kind: str
) -> None:
    """A server that opens a new turn where it was to continue one, or puts a template around a prompt."""
    with pytest.raises(ConfigurationError, match=r"not continued|Unexpected fields"):
        DraftOnly(drafter=connect(servers[kind], None, profile="sglang")).run(questions[0])
    with pytest.raises(ConfigurationError, match="its own template"):
        DraftOnly(drafter=connect(servers["ollama"], profile="generic")).run(questions[0])


def test_another_models_tokenizer_is_found_out(
    vllm: Habits, connect: Connect, questions: list[str], tmp_path: Folder
) -> None:
    import json
    import shutil

    shutil.copytree(TOKENIZER, tmp_path / "other", ignore=shutil.ignore_patterns("*.safetensors"))
    file = tmp_path / "other" / "tokenizer.json"
    data = json.loads(file.read_text())
    words = data["model"]["vocab"]
    a, b = [word for word in words if word.isalpha()][:2]
    words[a], words[b] = words[b], words[a]
    file.write_text(json.dumps(data))
    model = connect(vllm, str(tmp_path / "other"), mode="completions")
    model.prompts.vocabulary.pieces.reverse()  # type: ignore[union-attr]
    with pytest.raises(ConfigurationError, match="another model"):
        step_of(model, Path(as_prompt(questions[0])))


def test_a_full_context_is_distinguished_from_a_prompt_that_fills_it(
    servers: dict[str, Habits], connect: Connect, draft: HuggingFaceGenerator, questions: list[str]
) -> None:
    for kind in ("vllm", "llamacpp"):
        server = servers[kind]
        server.context = len(draft.vocabulary.prompt(as_prompt(questions[0]))) + 30
        model = connect(server)
        result = DraftOnly(drafter=model).run(questions[0])
        assert result.finish_reason == "context"
        assert result.text
        with pytest.raises(PromptError, match="too long"):
            DraftOnly(drafter=model).run("word " * 200)


def test_a_prompt_that_is_cut_silently_is_found_out(servers: dict[str, Habits], connect: Connect) -> None:
    cutter = servers["transformers"]
    cutter.context, cutter.cuts = 64, True
    asked = connect(cutter, profile="transformers")  # answers in one piece, so it tells what it read
    with pytest.raises(PromptError, match="silently truncates"):
        step_of(asked, Path(as_prompt("word " * 200)))
    cutter.cuts = False
    swallower = connect(servers["transformers"], profile="transformers", context=64)
    with pytest.raises(PromptError, match="context of 64"):
        step_of(swallower, Path(as_prompt("word " * 200)))


def test_a_stream_is_cut_after_the_delimiter_wherever_events_fall() -> None:
    text = "One.\n\n\nTwo."
    for size in range(1, 8):
        reader = StepReader(PROFILES["generic"], BLANK)
        parts = [text[at : at + size] for at in range(0, len(text), size)]
        done = next(i for i, part in enumerate(parts) if reader.take({"choices": [{"text": part}]}))
        assert reader.complete
        assert reader.answer.ending == "delimiter"
        assert text.startswith(reader.answer.text)
        assert reader.answer.text.startswith("One.\n\n")
        assert not reader.answer.text.strip("\n").endswith("T")
        assert done < len(parts)
    unfinished = StepReader(PROFILES["generic"], BLANK)
    assert not unfinished.take({"choices": [{"delta": {"content": "On"}, "finish_reason": None}]})
    assert not unfinished.complete


def test_counts_that_came_before_the_end_of_a_step_are_not_its_counts() -> None:
    reader = StepReader(PROFILES["generic"], BLANK)
    assert not reader.take({"choices": [{"text": "So"}], "usage": {"prompt_tokens": 3, "completion_tokens": 1}})
    assert (reader.answer.read, reader.answer.wrote) == (3, 1)
    assert reader.take({"choices": [{"text": " it is.\n\n"}]})
    assert (reader.answer.read, reader.answer.wrote) == (3, None)


def test_a_judge_reads_the_same_word_probabilities_as_in_process(
    vllm: Habits, connect: Connect, draft: HuggingFaceGenerator, questions: list[str]
) -> None:
    from rsd_integrations.verifiers.judges import DIGIT, WordJudge

    path, step = Path(as_prompt(questions[0])), Step("45 + 12 = 57\n\n", "delimiter")
    path = path.extend(Step("Mia has 45 apples.\n\n", "delimiter"))
    inside, over = (WordJudge(model, DIGIT, min_mass=0.0) for model in (draft, connect(vllm)))
    (wanted,), (made,) = (wait_for(judge.score(path, [step])).rewards for judge in (inside, over))
    assert made == pytest.approx(wanted, rel=1e-4)
    assert len(vllm.requests[-1]["logprob_token_ids"]) == len(DIGIT.words)


def test_a_judge_over_chats_reads_the_likely_words(
    servers: dict[str, Habits], connect: Connect, draft: HuggingFaceGenerator, questions: list[str]
) -> None:
    path = Path(as_prompt(questions[0])).extend(Step("Mia has 45: ", "length"))
    words = ("4", "5", "q")
    exact = wait_for(draft.next_word(path, words))
    for kind in ("vllm", "sglang"):
        told = wait_for(connect(servers[kind], None).next_word(path, words))
        top = [value for value in exact.logprobs if value > -3]
        assert top
        for value, wanted in zip(told.logprobs, exact.logprobs, strict=True):
            assert value == -math.inf or value >= wanted - 1e-3
        assert told.usage.generated == 1
    with pytest.raises(ConfigurationError, match="mode=rubric"):
        wait_for(connect(servers["transformers"], profile="transformers").next_word(path, words))
    spec = f"judge:openai,tokenizer={TOKENIZER}:draft@{servers['vllm'].url}"
    assert "draft" in load(spec).name


def test_likelihoods_equal_those_in_process(
    servers: dict[str, Habits], connect: Connect, draft: HuggingFaceGenerator, questions: list[str]
) -> None:
    path = Path(as_prompt(questions[0])).extend(Step("Mia has 45 apples.\n\n", "delimiter"))
    steps = [Step("45 + 12 = 57\n\n", "delimiter"), Step("So 57.", "end")]
    wanted = wait_for(draft.log_likelihoods(path, steps))
    made = wait_for(connect(servers["vllm"]).log_likelihoods(path, steps))
    assert made.values == pytest.approx(wanted.values, rel=1e-4)
    with pytest.raises(ConfigurationError, match="returns a prompt's"):
        wait_for(connect(servers["generic"]).log_likelihoods(path, steps))


def test_a_confident_drafter_needs_no_other_verifier(vllm: Habits, connect: Connect, questions: list[str]) -> None:
    step = step_of(connect(vllm, logprobs=True), Path(as_prompt(questions[0])))
    assert len(step.logprobs) == len(step.tokens) > 0
    assert all(value <= 0 for value in step.logprobs)


@pytest.mark.parametrize("kind", ["vllm", "generic"])
def test_a_cancelled_call_stops_the_servers_work(
    servers: dict[str, Habits], connect: Connect, questions: list[str], kind: str
) -> None:
    server, path = servers[kind], Path(as_prompt(questions[0]))
    model = connect(server)
    step_of(model, path)
    dropped = server.dropped
    server.fault = lambda number: "hang"

    async def cancelled() -> None:
        call = asyncio.ensure_future(model.generate(path, ASKED))
        before = len(server.requests)
        await asyncio.to_thread(wait_until, lambda: len(server.requests) > before)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call

    asyncio.run(cancelled())
    assert wait_until(lambda: server.dropped > dropped)
    server.fault = lambda number: None
    assert step_of(model, path).text


def test_one_candidate_that_fails_cancels_the_others(vllm: Habits, connect: Connect, questions: list[str]) -> None:
    model, path = connect(vllm, retries=0), Path(as_prompt(questions[0]))
    step_of(model, path)
    first = len(vllm.requests)
    vllm.fault = lambda number: "http500" if number == first + 2 else "hang"
    with pytest.raises(RunError, match="HTTP 500"):
        wait_for(model.generate(path, StepRequest((1, 2, 3), sampling=Sampling(1.0))))
    assert wait_until(lambda: vllm.dropped == 2)


def test_loops_and_threads_share_one_client(vllm: Habits, connect: Connect, questions: list[str]) -> None:
    from concurrent.futures import ThreadPoolExecutor

    model, path = connect(vllm, concurrency=2), Path(as_prompt(questions[0]))
    wanted = step_of(model, path)
    for _ in range(2):  # a loop that is gone leaves nothing behind that the next one would trip over
        assert asyncio.run(model.generate(path, ASKED)).steps[0] == wanted
    with ThreadPoolExecutor(6) as pool:
        made = list(pool.map(lambda i: asyncio.run(model.generate(path, ASKED)).steps[0], range(6)))
    assert made == [wanted] * 6
    assert vllm.crowd <= 2  # one bound for all of them


def test_mixed_prompts_of_a_base_model(servers: dict[str, Habits], connect: Connect) -> None:
    model = connect(servers["vllm"], None, mode="completions")
    verifier = ScriptedVerifier([0.9])
    decoder = RewardGuidedDecoder(
        drafter=model, verifier=verifier, target=model, settings=Settings(limits=Limits(max_steps=2))
    )
    assert decoder.run([("system", "Add."), ("user", "1 + 1?")]).steps
    assert servers["vllm"].requests[0]["prompt"] == "Add.\n\n1 + 1?"

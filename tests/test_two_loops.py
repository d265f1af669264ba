"""Everything that can be shared is used from two event loops in two threads at once, and gives what it gives alone.

A web server, a notebook and the background loop of the blocking methods each have a loop of their own, and one model
behind them. What belongs to one loop (asyncio's locks, clients, tasks) waits for ever in another, or fails there.
"""

import asyncio
import random
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

import pytest

from rsd_core import (
    AdvantageAware,
    BudgetAware,
    Decoder,
    Entropy,
    Likelihoods,
    Path,
    RewardGuidedDecoder,
    Settings,
    SpeculativeDecoding,
    Step,
    StepRequest,
    TargetOnly,
    Usage,
    as_prompt,
    load,
)
from rsd_core.baselines.judged import TargetJudge
from rsd_core.methods import METHODS, Setup, parse_method
from rsd_core.testing import ScriptedDrafter, ScriptedTarget, ScriptedVerifier
from rsd_integrations import langchain, llamaindex
from rsd_integrations.evaluation import find_task
from rsd_integrations.evaluation.graders import GRADERS
from rsd_integrations.huggingface import HuggingFaceGenerator, HuggingFaceVerifier
from rsd_integrations.langchain import ChatRSD, FunctionVerifier, LangChainDrafter, LangChainJudge, RSDRunnable
from rsd_integrations.openai_compatible import OpenAIGenerator
from rsd_integrations.prm_formats import CRITICS
from rsd_integrations.verifiers import Cached, Cascade, Confidence, CriticJudge, Ensemble, Programs, WordJudge
from rsd_integrations.verifiers.rules import RULES
from tests.langchain.fakes import always
from tests.openai_compatible.conftest import TOKENIZER
from tests.openai_compatible.server import Habits, listening

Use = Callable[[int], Awaitable[Any]]
"""One use of a shared object: equal numbers give equal values."""
TIMES = 6
SPECS: dict[str, Any] = {"drafter": "scripted:draft", "verifier": "scripted:verifier", "target": "scripted:target"}
QUESTION = "Mia has 45 apples. On Monday she buys {} more. How many apples does Mia have now?"


def from_two_loops(use: Use, times: int = TIMES) -> list[list[Any]]:
    """The results of two threads that use an object at the same moment, each on its own loop, then each once more.

    A thread that waits for ever fails the test after a minute, and is left behind.
    """
    found: list[list[Any]] = [[], []]
    errors: list[BaseException] = []
    start = threading.Barrier(2)

    async def together(which: int) -> None:
        start.wait(10)
        found[which] += await asyncio.gather(*(use(i) for i in range(times)))

    async def again(which: int) -> None:
        found[which].append(await use(0))

    def run(which: int) -> None:
        try:
            asyncio.run(together(which))
            asyncio.run(again(which))  # a loop that is new, where those before it are closed
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(which,), daemon=True) for which in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    if errors:
        raise errors[0]
    assert not any(thread.is_alive() for thread in threads), "one of the loops waits for ever"
    return found


def check(use: Use, alone: Use, times: int = TIMES) -> None:
    """An object gives two loops what another one, or itself, gives each of several loops alone."""
    expected = [alone_in_a_loop(alone, i) for i in range(times)]
    assert from_two_loops(use, times) == [[*expected, expected[0]]] * 2
    cut_short(use)
    assert alone_in_a_loop(use, 0) == expected[0]


def alone_in_a_loop(use: Use, i: int) -> Any:
    async def one() -> Any:
        return await asyncio.wait_for(use(i), 60)

    return asyncio.run(one())


def cut_short(use: Use) -> None:
    """Use an object from a loop that is closed in the middle of it."""

    async def begin() -> None:
        task = asyncio.ensure_future(use(1))
        await asyncio.sleep(0.003)
        task.cancel()
        await asyncio.wait([task])

    asyncio.run(begin())


def path(i: int, *texts: str) -> Path:
    asked = Path(as_prompt(QUESTION.format(i)))
    for text in texts:
        asked = asked.extend(Step(text, "delimiter"))
    return asked


def step(text: str, **options: Any) -> Step:
    return Step(text, "delimiter", size=3, **options)


def scoring(verifier: Any, *texts: str, after: Callable[[int], Path] = path, **options: Any) -> Use:
    steps = [step(text, **options) for text in texts or ("45+12=57.\n\n", "45+12=58.\n\n")]

    async def use(i: int) -> Any:
        return (await verifier.score(after(i), steps)).rewards

    return use


def writing(generator: Any) -> Use:
    async def use(i: int) -> Any:
        steps = (await generator.generate(path(i), StepRequest((i, i + 1), max_tokens=24))).steps
        return [made.text for made in steps]

    return use


def decoding(decoder: Decoder, prompt: str = QUESTION) -> Use:
    async def use(i: int) -> Any:
        result = await decoder.arun(prompt.format(i))
        return result.text, [record.author for record in result.steps]

    return use


def scripted(reward: float | None, delay: float = 0.002) -> ScriptedVerifier:
    return ScriptedVerifier(lambda _path, _step: reward, delay=delay)


def writer(text: str) -> ScriptedTarget:
    return ScriptedTarget([text], delay=0.002)


# -- without a model --------------------------------------------------------------------------------------------------

TASK = "Write add, number {}."
CODE = "```python\ndef add(a, b): return a + b\n```\n\n"
TESTS = {TASK.format(i): ["assert add(2, 3) == 5", f"assert add({i}, 1) == 0"] for i in range(TIMES)}


def random_reward(at: Path, scored: Step) -> float:
    return random.Random(f"{at.prompt[-1].content} {scored.text}").random()


def programs() -> Programs:
    with pytest.warns(UserWarning, match="sandbox=none"):
        return Programs(TESTS, parallel=1, sandbox="none")


VERIFIERS: dict[str, Callable[[], Use]] = {
    "code": lambda: scoring(programs(), CODE, after=lambda i: Path(as_prompt(TASK.format(i)))),
    "cached": lambda: scoring(Cached(ScriptedVerifier(random_reward, delay=0.002), size=1), "a\n\n", "b\n\n", "c\n\n"),
    "cascade": lambda: scoring(Cascade([scripted(0.5), scripted(None), scripted(0.7)])),
    "ensemble": lambda: scoring(Ensemble([scripted(0.5), scripted(0.7), scripted(None)])),
    "confidence": lambda: scoring(Confidence(), logprobs=(-0.1, -0.7)),
    "word judge": lambda: _rounded(scoring(WordJudge(load("embedded:draft"), min_mass=0))),
    "critic": lambda: scoring(CriticJudge(writer("Fine. Score: 7"), CRITICS["rubric"])),
    "target as judge": lambda: scoring(TargetJudge(writer("7"))),
    "langchain judge": lambda: scoring(LangChainJudge(always("Score: 7"))),
    "function": lambda: scoring(FunctionVerifier(lambda messages, reply: 0.25)),
    "scripted": lambda: scoring(scripted(0.5)),
    **{f"rule {name}": lambda kind=kind: scoring(kind()) for name, kind in RULES.items()},  # type: ignore[misc]
}


@pytest.mark.parametrize("name", VERIFIERS)
def test_a_verifier_is_shared_by_two_loops(name: str) -> None:
    check(VERIFIERS[name](), VERIFIERS[name]())


@pytest.mark.parametrize(
    "make",
    [
        lambda: ScriptedDrafter(lambda at, rng: f"{rng.random()}\n\n", delay=0.002),
        lambda: LangChainDrafter(always("12 more")),
        lambda: load("embedded:draft"),
    ],
    ids=["scripted", "langchain", "embedded"],
)
def test_a_generator_is_shared_by_two_loops(make: Callable[[], Any]) -> None:
    turn = isinstance(make(), LangChainDrafter)
    uses = [(_turns if turn else writing)(make()) for _ in range(2)]
    check(uses[0], uses[1])


def _turns(generator: Any) -> Use:
    async def use(i: int) -> Any:
        return [made.text for made in (await generator.generate(path(i), StepRequest((0,), 24, None))).steps]

    return use


# -- models in process ------------------------------------------------------------------------------------------------


def test_models_in_process_are_shared_by_two_loops(
    draft: HuggingFaceGenerator, target: HuggingFaceGenerator, verifier: HuggingFaceVerifier
) -> None:
    async def likelihoods(i: int) -> Any:
        values = (await draft.log_likelihoods(path(i), [step("45+12=57.\n\n")])).values
        return [round(value, 3) for value in values]

    async def words(i: int) -> Any:
        return [round(value, 3) for value in (await draft.next_word(path(i), ["1", "2"])).logprobs]

    async def rewards(i: int) -> Any:
        found = (await verifier.score(path(i, "She has 45.\n\n"), [step("45+12=57.\n\n")])).rewards
        return [round(reward or 0.0, 3) for reward in found]

    for use in (writing(draft), writing(target), likelihoods, words, rewards):
        check(use, use)


def test_decoders_of_models_in_process_are_shared_by_two_loops(
    family: RewardGuidedDecoder, draft: HuggingFaceGenerator, target: HuggingFaceGenerator
) -> None:
    for decoder in (family, family.with_settings(Settings(lookahead=2)), TargetOnly(target=target)):
        check(decoding(decoder), decoding(decoder), times=3)
    speculative = SpeculativeDecoding(drafter=draft, target=target)
    expected = [alone_in_a_loop(decoding(speculative), i) for i in range(2)]
    assert from_two_loops(decoding(speculative), times=2) == [[*expected, expected[0]]] * 2


# -- models behind servers --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server() -> Iterator[Habits]:
    with listening(Habits("draft", "vllm")) as habits:
        yield habits


@pytest.mark.parametrize("concurrency", [1, 4])
def test_a_model_behind_a_server_is_shared_by_two_loops(
    server: Habits, concurrency: int, draft: HuggingFaceGenerator
) -> None:
    generator = load(f"openai:draft@{server.url}", tokenizer=TOKENIZER, concurrency=concurrency)
    assert isinstance(generator, OpenAIGenerator)
    check(_greedy(generator), _greedy(draft))
    judge = WordJudge(generator, min_mass=0)
    check(_rounded(scoring(judge, "45+12=57.\n\n")), _rounded(scoring(WordJudge(draft, min_mass=0), "45+12=57.\n\n")))
    asyncio.run(generator.aclose())


def _greedy(generator: Any) -> Use:
    async def use(i: int) -> Any:
        return [made.text for made in (await generator.generate(path(i), StepRequest((0,), max_tokens=24))).steps]

    return use


def _rounded(use: Use) -> Use:
    async def rounded(i: int) -> Any:
        return [round(reward, 3) for reward in await use(i)]

    return rounded


# -- decoders and policies --------------------------------------------------------------------------------------------


def seats(**options: Any) -> RewardGuidedDecoder:
    """Steps of random rewards, which the path alone decides."""
    drafter = ScriptedDrafter(
        lambda at, rng: f"{at.prompt[-1].content[:12]} {at.depth}\n\n" * (at.depth < 4), delay=0.001
    )
    return RewardGuidedDecoder(
        drafter=drafter,
        verifier=ScriptedVerifier(random_reward, delay=0.001),
        target=ScriptedTarget(["target\n\n"], delay=0.001),
        **options,
    )


@pytest.mark.parametrize(
    "settings", [Settings(), Settings(lookahead=3), Settings(hedge=0.3), Settings(candidates=3, temperature=1)]
)
def test_a_decoder_is_shared_by_two_loops(settings: Settings) -> None:
    check(decoding(seats(settings=settings)), decoding(seats(settings=settings)))


@pytest.mark.parametrize("policy", [BudgetAware(target_rate=0.3), AdvantageAware(target_rate=0.3)])
def test_a_policy_that_learns_is_shared_by_two_loops(policy: Any) -> None:
    """What it learns depends on who comes first; that everybody gets an answer, and the rate holds, does not."""
    found = from_two_loops(decoding(seats(policy=policy)), times=40)
    authors = [author for answers in found for _, own in answers for author in own]
    assert 0.15 < authors.count("target") / len(authors) < 0.45


@pytest.mark.parametrize("kind", [kind for kind in METHODS if not kind.startswith("speculative")])
def test_every_method_is_shared_by_two_loops(kind: str) -> None:
    class Likely(ScriptedTarget, ScriptedDrafter):
        async def log_likelihoods(self, at: Path, steps: Sequence[Step]) -> Likelihoods:
            return Likelihoods((-1.0,) * len(steps), Usage())

        async def first_token_entropy(self, path: Path) -> Entropy:
            return Entropy(2.0 * (path.depth % 2), Usage())

    def model(spec: str) -> Any:
        return load(spec) if spec.endswith("verifier") else Likely(load(spec).script, delay=0.001)

    def decoder() -> Decoder:
        return parse_method(kind).build(Setup(**SPECS, load=model))

    check(decoding(decoder()), decoding(decoder()))


# -- adapters ---------------------------------------------------------------------------------------------------------


def test_adapters_are_shared_by_two_loops() -> None:
    models: dict[str, Any] = {"draft": "scripted:draft", "verifier": "scripted:verifier", "target": "scripted:target"}
    chat, llm, index = ChatRSD(**models), langchain.RSDLLM(**models), llamaindex.RSDLLM(**models)
    runnable = RSDRunnable(**models)

    async def ask(i: int) -> Any:
        question = QUESTION.format(i)
        answers = (
            (await chat.ainvoke(question)).text,
            await llm.ainvoke(question),
            (await index.acomplete(question)).text,
            (await runnable.ainvoke(question)).content,
        )
        streamed = [chunk.text async for chunk in chat.astream(question)]
        return answers, "".join(map(str, streamed))

    check(ask, ask)


def test_turns_of_langchain_models_are_shared_by_two_loops() -> None:
    def chat() -> ChatRSD:
        return ChatRSD(
            draft=always("good"), target=always("better"), verifier=lambda messages, reply: 0.9, granularity="turn"
        )

    def asking(model: ChatRSD) -> Use:
        async def use(i: int) -> Any:
            return (await model.ainvoke(QUESTION.format(i))).text

        return use

    check(asking(chat()), asking(chat()))


# -- tasks and graders ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("grader", GRADERS)
def test_a_grader_is_shared_by_two_loops(grader: str) -> None:
    reference = "B" if grader == "choice" else "1/2"

    async def use(i: int) -> Any:
        return [GRADERS[grader](reference, text) for text in ("\\boxed{0.5}", "\\boxed{1/2}", "\\boxed{B}", "")]

    check(use, use)


def test_a_task_is_shared_by_two_loops() -> None:
    task = find_task("embedded")

    async def use(i: int) -> Any:
        return [item.question for item in task.draw(5, i)]

    check(use, use)

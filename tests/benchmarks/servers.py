"""RSD over model servers against a client in lock-step: `python -m tests.benchmarks.servers --json FILE [--quick]`.

Both use servers on separate simulated machines (`tests/benchmarks/simulated.py`), and with `--real` three vLLM servers
on this machine (`make servers` installs them). Ratios are medians over rounds.
"""

from __future__ import annotations

import asyncio
import platform
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from types import SimpleNamespace
from typing import Any

from rsd_core import BinaryStep, Prompt, RewardGuidedDecoder, Settings, as_prompt, load
from rsd_core.blocking import in_thread
from rsd_integrations.evaluation import find_task
from tests.benchmarks.command import Command, Size
from tests.benchmarks.lockstep import Score, Write, lock_step
from tests.benchmarks.simulated import (
    BIG,
    BIG_TARGET,
    JUDGE,
    NOWHERE,
    PAPER,
    REMOTE,
    SCALE,
    TWICE,
    Clock,
    Free,
    Record,
    Setup,
    common,
    longer,
    record,
    start,
)
from tests.servers.launcher import PYTHON

SIZES = {
    "rounds": Size(5, 1, "rounds of every client"),
    "alone": Size(16, 4, "problems that are solved one at a time"),
    "usual": Size(3, 1, "recorded answers in each answer: three are as long as worked solutions"),
    "long": Size(12, 2, "the same for long answers: twelve are as long as chains of thought"),
    "problems": Size(200, 8, "problems compared with answers in process, with --real"),
}
CONCURRENT, PROBLEMS = 32, 64
FEW, MANY = "few", "many"
PATTERNS = {FEW: ("embedded:verifier", 0.5), MANY: ("embedded:prm", 0.9)}
"""Reward models and thresholds of the embedded family whose recorded answers are replayed."""
USUAL, LONG = "usual", "long"
"""Lengths of answers."""
CASES = (
    *((setup, pattern, USUAL) for pattern in (FEW, MANY) for setup in (PAPER, TWICE, BIG_TARGET, BIG, REMOTE, JUDGE)),
    *((setup, FEW, LONG) for setup in (PAPER, JUDGE)),
)
"""The first one is the paper's: its models, with servers next to each other."""


@dataclass(frozen=True, slots=True)
class Way:
    """Settings of this library."""

    settings: Settings = Settings()  # noqa: RUF009 - frozen
    guesses: bool = False
    """Whether the target reads the drafts that it replaces."""


WAYS = {
    "rsd": Way(),
    "lookahead 1": Way(Settings(lookahead=1)),
    "lookahead 2": Way(Settings(lookahead=2)),
    "lookahead 4": Way(Settings(lookahead=4)),
    "lookahead 2, hedge 0.3": Way(Settings(lookahead=2, hedge=0.3)),
    "lookahead 4, guesses": Way(Settings(lookahead=4), guesses=True),
}
FOR_ONE = "lookahead 4, guesses"
"""The setting for the latency of a single answer."""
TOGETHER = ("rsd", "lookahead 4", "lookahead 4, guesses")
"""The settings shown with many problems in flight."""
IN_FLIGHT = [
    f"{what}, {CONCURRENT} of {n}" for n in (CONCURRENT, PROBLEMS) for what in ("rsd", "lookahead 4", "and guesses")
]
HERE = ("rsd", "lookahead 1", "lookahead 4", "lookahead 4, guesses")
"""The settings shown on this machine's own servers, one problem at a time."""
LOCK_STEP = "lock-step"


def recorded(problems: int, verifier: str, delta: float) -> Record:
    """The embedded family's recorded answers to some problems."""
    made = RewardGuidedDecoder(
        drafter=load("embedded:draft"),
        verifier=load(verifier),
        target=load("embedded:target"),
        policy=BinaryStep(delta=delta),
    )
    prompts = [as_prompt(item.prompt) for item in find_task("embedded").draw(problems, 1)]
    return asyncio.run(record(made, prompts))


def rejected(said: Record, delta: float) -> float:
    """Share of the steps that the target wrote."""
    steps = [position for answer in said.values() for position in answer]
    return sum(position.reward < delta for position in steps) / len(steps)


@dataclass(frozen=True, slots=True)
class Answers:
    """A client's results on some problems."""

    seconds: float
    texts: list[str]
    computed: int = 0
    """Tokens that drafter and target computed."""
    read: int = 0
    """Tokens that the verifier computed."""


async def ours(models: Any, prompts: Sequence[Prompt], delta: float, settings: Settings, concurrency: int) -> Answers:
    """Answers by this library, timed by the loop's own clock."""
    made = RewardGuidedDecoder(
        drafter=models.drafter,
        verifier=models.verifier,
        target=models.target,
        policy=BinaryStep(delta=delta),
        settings=settings,
    )
    clock = asyncio.get_running_loop()
    started = clock.time()
    asked = [[(message.role, message.content) for message in prompt] for prompt in prompts]
    results = await made.arun_many(asked, concurrency=concurrency)
    return Answers(clock.time() - started, [result.text for result in results])


async def theirs(batched: tuple[Write, Score, Write], prompts: Sequence[Prompt], delta: float, at_once: int) -> Answers:
    """Answers in lock-step, in batches of problems."""
    clock = asyncio.get_running_loop()
    started, texts = clock.time(), []
    for first in range(0, len(prompts), at_once):
        texts += await lock_step(prompts[first : first + at_once], *batched, delta=delta)
    return Answers(clock.time() - started, texts)


def simulate(
    setup: Setup, said: Record, delta: float, seed: int, way: Way | None, at_once: int, writing: bool = False
) -> Answers:
    """One client on fresh machines; None is the one in lock-step. Optionally, only writing takes time."""

    async def run() -> Answers:
        guesses = way is not None and way.guesses
        servers = start(replace(setup, network=NOWHERE) if writing else setup, said, seed, guesses)
        if writing:
            servers = replace(servers, verifier=Free([], said, 0))
        if way is None:
            made = await theirs(servers.batched, list(said), delta, at_once)
        else:
            made = await ours(servers, list(said), delta, way.settings, at_once)
        return replace(
            made,
            computed=servers.drafter.machine.computed + servers.target.machine.computed,
            read=sum(machine.computed for machine in servers.verifier.replicas),
        )

    with asyncio.Runner(loop_factory=Clock) as runner:
        return runner.run(run())


def ratio(a: Sequence[Answers], b: Sequence[Answers]) -> float:
    """Median over rounds of a's seconds over b's."""
    return statistics.median(x.seconds / y.seconds for x, y in zip(a, b, strict=True))


async def real(rounds: int, problems: int, lone: int) -> dict[str, Any]:
    """Both clients on three vLLM servers that share this machine's cores; they alternate on each problem."""
    from tests.benchmarks.loopback import batched
    from tests.servers.equality import DELTA, equal_to_inprocess
    from tests.servers.launcher import family

    prompts = [as_prompt(item.prompt) for item in find_task("embedded").draw(CONCURRENT, 1)]
    with family() as servers:
        equal = await in_thread(lambda: equal_to_inprocess(servers, problems))
        guessed = await in_thread(lambda: equal_to_inprocess(servers, problems, lookahead=4, guesses=True))
        drafter, verifier = load(servers["draft"].spec), load(servers["prm"].spec)
        targets = {guesses: load(servers["target"].spec, guesses=guesses) for guesses in (False, True)}
        together = batched(drafter, verifier, targets[False])

        async def answers(name: str, asked: Sequence[Prompt]) -> Answers:
            if name == LOCK_STEP:
                return await theirs(together, asked, DELTA, CONCURRENT)
            way = WAYS[name]
            models = SimpleNamespace(drafter=drafter, verifier=verifier, target=targets[way.guesses])
            return await ours(models, asked, DELTA, way.settings, CONCURRENT)

        alone: defaultdict[str, list[float]] = defaultdict(list)
        many: defaultdict[str, list[Answers]] = defaultdict(list)
        for turn in range(rounds + 1):
            spent = dict.fromkeys((LOCK_STEP, *HERE), 0.0)
            for prompt in prompts[:lone]:
                for name in spent:
                    spent[name] += (await answers(name, [prompt])).seconds
            made = {name: await answers(name, prompts) for name in (LOCK_STEP, *TOGETHER)}
            if turn:  # the first round warms up the servers
                for name, seconds in spent.items():
                    alone[name].append(seconds)
                for name, run in made.items():
                    many[name].append(run)
        for model in (drafter, verifier, *targets.values()):
            await model.aclose()
    return {
        "equal_to_inprocess": equal,
        "equal_to_inprocess_with_guesses": guessed,
        "seconds_per_problem_lock_step": statistics.median(alone[LOCK_STEP]) / lone,
        "latency_ratio": {
            name: statistics.median(a / b for a, b in zip(alone[name], alone[LOCK_STEP], strict=True)) for name in HERE
        },
        "throughput_32_of_32": {name: ratio(many[LOCK_STEP], many[name]) for name in TOGETHER},
        "same_answers": {
            name: sum(a == b for a, b in zip(many[LOCK_STEP][0].texts, many[name][0].texts, strict=True))
            for name in TOGETHER
        },
    }


def compared(setup: Setup, said: Record, delta: float, rounds: int, lone: int) -> dict[str, Any]:
    """All clients on one setup, round by round; every one gives the same answers."""

    def go(way: Way | None, at_once: int, problems: int, writing: bool = False) -> list[Answers]:
        some = dict(list(said.items())[:problems])
        return [simulate(setup, some, delta, seed, way, at_once, writing) for seed in range(rounds)]

    def same(*runs: list[Answers]) -> None:
        assert all(run.texts == runs[0][0].texts for method in runs for run in method), "answers differ"

    lock = go(None, 1, lone)
    alone = {name: go(way, 1, lone) for name, way in WAYS.items()}
    same(lock, *alone.values())
    found: dict[str, Any] = {
        "seconds_per_problem_lock_step": statistics.median(run.seconds for run in lock) / lone,
        "latency_ratio": {name: ratio(runs, lock) for name, runs in alone.items()},
        "latency_ratio_writing_alone": ratio(go(Way(), 1, lone, writing=True), lock),
        "computed_ratio": {name: runs[0].computed / alone["rsd"][0].computed for name, runs in alone.items()},
    }
    for problems in (CONCURRENT, len(said)):
        lock = go(None, CONCURRENT, problems)
        made = {name: go(WAYS[name], CONCURRENT, problems) for name in TOGETHER}
        same(lock, *made.values())
        found[f"throughput_32_of_{problems}"] = {name: ratio(lock, runs) for name, runs in made.items()}
        if problems == CONCURRENT:
            plain, ahead, guessed = (made[name][0] for name in TOGETHER)
            found["tokens_ratio_32"] = {
                "written": ahead.computed / plain.computed,
                "guessed": guessed.computed / plain.computed,
                "scored": ahead.read / plain.read,
            }
    return found


def agreed(said: Record, delta: float) -> float:
    """Share of the tokens of the target's steps with which the replaced drafts begin."""
    replaced = [(position.draft, position.target) for a in said.values() for position in a if position.reward < delta]
    return sum(common(*pair) for pair in replaced) / sum(target.size for _, target in replaced)


def simulated(
    short: dict[str, tuple[Record, float]], rounds: int, lone: int, lengths: Mapping[str, int]
) -> list[dict[str, Any]]:
    """Every case, with its parts."""
    cases = []
    for setup, pattern, length in CASES:
        said, delta = short[pattern]
        answers = longer(dict(list(said.items())[: PROBLEMS if length == USUAL else CONCURRENT]), lengths[length])
        sizes = [SCALE * sum((p.draft if p.reward >= delta else p.target).size for p in a) for a in answers.values()]
        cases.append(
            {
                "setup": setup.name,
                "pattern": pattern,
                "rejected": rejected(answers, delta),
                "steps": statistics.mean(map(len, answers.values())),
                "tokens": statistics.mean(sizes),
                **compared(setup, answers, delta, rounds, lone),
            }
        )
    return cases


def markdown(found: dict[str, Any]) -> str:
    """The section of docs/benchmarks.md."""
    alone, together = [], []
    for case in found["simulated"]:
        what = f"| {case['setup']} | {case['steps']:.0f} / {case['tokens']:,.0f} | {case['rejected']:.0%} | "
        ratios = [case["latency_ratio"][name] for name in list(WAYS)[1:]] + [case["latency_ratio_writing_alone"]]
        alone.append(
            f"{what}{case['seconds_per_problem_lock_step']:.1f} s | " + " | ".join(f"{x:.2f}" for x in ratios) + " |"
        )
        cells = [
            f"{case[key][name]:.2f}x" if key in case else ""
            for key in ("throughput_32_of_32", "throughput_32_of_64")
            for name in TOGETHER
        ]
        more = case["tokens_ratio_32"]
        tokens = " | ".join(f"{more[key]:.2f}" for key in ("written", "guessed", "scored"))
        together.append(f"{what}{' | '.join(cells)} | {tokens} |")
    names = " | ".join(list(WAYS)[1:])
    return f"""
## Model servers against a client in lock-step

Made by `python -m tests.benchmarks.servers`, {found["date"]}. The lock-step client works like the published reference:
in each round it sends one request per role for all problems, with the whole text, and waits for the slowest. Servers,
problems and acceptance rule are the same, and the answers of both are verified to be equal.

**Simulated machines.** A 1.5B drafter, and the verifier and target named in the table, each on separate A100s. An
iteration takes 1/183 s (1.5B), 1/84 s (7B), 1/31 s (72B on four), as
[published](https://qwen.readthedocs.io/en/v2.5/benchmark/speed_benchmark.html) for vLLM 0.6.3, or as long as its tokens
need at half of the data sheet's FLOP/s; prefill in chunks of 8,192 tokens, continuous batching, prefix caching for
generators but not for reward models. Round trips have a median of 1 ms, 60 ms to another region, and each request 5 ms
of overhead at the server; both are lognormal (σ = 0.3). Answers, rewards and lengths were recorded from the embedded
family: tokens count twice, and answers are {found["answers"][USUAL]} in a row (the long ones {found["answers"][LONG]});
3 have the length of worked solutions and 12 that of chains of thought. The clock jumps over waiting, so the clients'
own work takes no time. A stream's client receives each token with the same delay as an answer. Medians over
{found["rounds"]} rounds.

**One problem at a time.** Wall-clock time relative to lock-step. Without lookahead it is 1.00, because the requests are
the same. With lookahead a draft is part of [one request with those before
it](scheduling.md#one-request-for-many-steps). The last column is what would remain if requests and scores took no time:
drafts and replacements, written one after the other. Lookahead cannot go below it. A hedge can, because the target then
writes in parallel with the drafter, and so can [guesses](scheduling.md#guesses-at-a-server): the target reads the draft
that it replaces, which for vLLM means the whole text, and continues from where it disagrees. Of its tokens,
{found["agreed"][FEW]:.0%} are at the beginning of the draft if few are rejected, and {found["agreed"][MANY]:.0%}
if many are.

| verifier, target | steps / tokens | rejected | lock-step | {names} | writing alone |
|---|---|---|---|{"---|" * len(WAYS)}
{chr(10).join(alone)}

In the first case, tokens computed by drafter and target, relative to those without early work: {
        ", ".join(
            f"{name} {value:.2f}" for name, value in found["simulated"][0]["computed_ratio"].items() if name != "rsd"
        )
    }.

**32 problems in flight.** Throughput relative to lock-step: 32 problems started together, and 64 of which 32 are in
flight. Here the verifier is the bottleneck, because it rereads the whole text for each step. With lookahead, waiting
drafts are scored in one prefill, as [runs of steps](scheduling.md#runs-of-steps). The gain is smaller if more is
rejected, because what follows a rejected step was drafted and scored for nothing. There is little or no gain with a
judge, which has to write about each step. The last three columns are computed tokens relative to those without early
work (32 of 32): by drafter and target with lookahead 4, and with guesses too; and by the verifier with lookahead 4.

| verifier, target | steps / tokens | rejected | {" | ".join((*IN_FLIGHT, "written", "with guesses", "scored"))} |
|---|---|---|{"---|" * (len(IN_FLIGHT) + 3)}
{chr(10).join(together)}
{here(found["real"])}"""


def here(real: dict[str, Any] | None) -> str:
    """The measurements on this machine's own servers."""
    if real is None:
        return ""
    equal = real["equal_to_inprocess"]
    guessed, alone, many = (
        real[key] for key in ("equal_to_inprocess_with_guesses", "latency_ratio", "throughput_32_of_32")
    )
    return f"""
**Three vLLM servers on this machine.** The embedded family on two cores shared by the servers and both clients. Each
server's engine and worker are one process (`tests/servers/launcher.py`): as two, the workers spin for a second after
each request and compete for the cores. {equal["equal"]} of {equal["problems"]} answers are those of the models
in process, step by step, and {guessed["equal"]} of {guessed["problems"]} with lookahead 4 and guesses. One problem at a
time, each by all in turn, takes {real["seconds_per_problem_lock_step"]:.2f} s in lock-step; {alone["rsd"]:.2f} of that
here, {alone["lookahead 1"]:.2f} with lookahead 1, {alone["lookahead 4"]:.2f} with lookahead 4, and
**{alone[FOR_ONE]:.2f}** with lookahead 4 and guesses. With 32 at once, all compete for the same two cores:
{many["rsd"]:.2f}x the throughput of lock-step, {many["lookahead 4"]:.2f}x with lookahead 4, and {many[FOR_ONE]:.2f}x
with guesses too. Of the {CONCURRENT}
answers, {" and ".join(str(real["same_answers"][name]) for name in TOGETHER)} are the same as in lock-step.
"""


COMMAND = Command("servers", __doc__, SIZES, markdown)
COMMAND.parser.add_argument("--real", action="store_true", help="also on three vLLM servers here (`make servers`)")


def main() -> None:
    """Measure and write."""
    options = COMMAND.parse()
    if options.real and not PYTHON.exists():
        COMMAND.parser.error("--real needs vLLM servers, which `make servers` installs")
    here = asyncio.run(real(options.rounds, options.problems, options.alone)) if options.real else None
    short = {name: (recorded(PROBLEMS, *pattern), pattern[1]) for name, pattern in PATTERNS.items()}
    lengths = {USUAL: options.usual, LONG: options.long}
    cases = simulated(short, options.rounds, options.alone, lengths)
    throughput = cases[0]["throughput_32_of_32"]
    best = max(TOGETHER, key=throughput.__getitem__)
    found = {
        "date": f"{date.today()}",
        "machine": f"{platform.machine()}, Python {platform.python_version()}",
        "rounds": options.rounds,
        "answers": lengths,
        "throughput_over_lockstep_32": throughput[best],
        "throughput_over_lockstep_32_with": best,
        "lookahead_latency_ratio_1": (here or cases[0])["latency_ratio"][FOR_ONE],
        "lookahead_latency_ratio_1_on": "simulated machines" if here is None else "three vLLM servers here",
        "lookahead_latency_ratio_1_with": FOR_ONE,
        "lookahead_latency_ratio_1_without_guesses": (here or cases[0])["latency_ratio"]["lookahead 4"],
        "lookahead_latency_ratio_1_simulated": cases[0]["latency_ratio"][FOR_ONE],
        "equal_to_inprocess": None if here is None else here["equal_to_inprocess"],
        "agreed": {name: agreed(*answers) for name, answers in short.items()},
        "simulated": cases,
        "real": here,
    }
    COMMAND.write(options, found)


if __name__ == "__main__":
    main()

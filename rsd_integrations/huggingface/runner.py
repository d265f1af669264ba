"""One model of an engine: its store, and the calls that wait for it."""

from __future__ import annotations

import itertools
import threading
import time
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn

from rsd_core import ConfigurationError, Sampling
from rsd_integrations.huggingface import attention
from rsd_integrations.huggingface.attention import Batch, Survey
from rsd_integrations.huggingface.bare_model import BareModel
from rsd_integrations.huggingface.cache import PathCache
from rsd_integrations.huggingface.calls import Call, Output, ReadingRow, Row, WritingRow
from rsd_integrations.huggingface.kv_store import KVStore, Sequence
from rsd_integrations.huggingface.lean import LeanDecoder
from rsd_integrations.huggingface.planner import CACHE_SHARE, available, context_of, copied, memory
from rsd_integrations.huggingface.sampling import choose

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CHUNK = 512
"""Most tokens that reading adds to one forward pass; longer prefixes take several, with other work between them."""
DRAWN = 64
"""Most tokens that are chosen at once, which takes memory for some copies of their logits."""
SMOOTH = 8
"""Forward passes that the time of one is averaged over."""
PROBE = [0, 1, 2, 3]


_making = threading.Lock()
_runners: WeakValueDictionary[int, Runner] = WeakValueDictionary()
"""By the identity of the model, which a runner keeps alive."""


class Run(NamedTuple):
    """A row's part of a forward pass."""

    row: Row
    known: int
    new: int
    reads: int
    """How many outputs it wants."""


@dataclass(slots=True)
class Harvest:
    """What a forward pass and the cache gave."""

    writers: list[tuple[WritingRow, range]] = field(default_factory=list)
    """Rows that take tokens, each with the places of its logits: several where tokens were guessed."""
    logits: list[Tensor] = field(default_factory=list)
    readers: list[ReadingRow] = field(default_factory=list)
    """Rows that are read to their end."""


class Runner:
    """Runs one model for everybody who calls it: all rows that wait share each forward pass.

    Used by the engine's thread only, once it is made.
    """

    @classmethod
    def of(cls, model: PreTrainedModel | BareModel, *, threads: int, budget: float | None = None) -> Runner:
        """The runner of a model, shared by all who use it; arguments and errors as for a new one."""
        with _making:
            found = _runners.get(id(model))
            if found is None:
                found = _runners[id(model)] = cls(model, threads=threads, budget=budget)
            return found

    @torch.inference_mode()
    def __init__(self, model: PreTrainedModel | BareModel, *, threads: int, budget: float | None = None) -> None:
        """Take over a model.

        Args:
            model: A causal language model, or the body of one.
            threads: For each operation on a CPU.
            budget: Bytes for keys and values; by default an eighth of the device's memory.

        Raises:
            ConfigurationError: The model does not work this way: it keeps something other than keys and values, or
                its attention is of its own making.
        """
        self.model, self.device, self.threads = model, model.device, threads
        self.context = context_of(model.config)
        self.cache = PathCache()
        """For all who read paths as their own tokens; a verifier with an input format has a cache of its own."""
        self.passes = 0
        """Forward passes so far."""
        self.pace = 1e-3
        """Seconds that a forward pass took lately."""
        self._calls: list[Call[Any]] = []
        self._given: list[Row] = []
        """Rows that need no forward pass: all they ask for is cached."""
        wanted: Tensor | None = None
        if isinstance(model, BareModel):
            survey = model.survey()
        else:
            with _explained(model):
                wanted = _probe(model)  # with the attention it was made for
                attention.register()
                model.set_attn_implementation(attention.NAME)
                survey = _survey(model)
        shapes = [survey.shapes[layer] for layer in sorted(survey.shapes)]
        self.store = KVStore(
            shapes, model.dtype, model.device, budget or memory(model.device) / CACHE_SHARE, self.context
        )
        weights = float(model.num_parameters() * model.dtype.itemsize)
        room = available(model.device) - self.store.token_bytes * self.context
        self.lean = LeanDecoder.of(model, survey, copied(weights, room, model.device))
        """Runs the model where it is of a plain kind; None where its own modules do."""
        if self.lean is not None and wanted is not None and not _close(self._probe(), wanted):
            self.lean = None
        self._head: nn.Module | None = None
        self._caught: list[Tensor] = []
        """What the last forward pass by the modules gave to the output head."""
        if self.lean is None:
            assert wanted is not None
            assert not isinstance(model, BareModel)
            self._head = model.get_output_embeddings()  # type: ignore[no-untyped-call]
            if self._head is not None:
                self._head.register_forward_pre_hook(_catching(self._caught))
            with _explained(model):
                if not _close(self._probe(), wanted):
                    raise ValueError("its results in a batch are others than alone")

    @property
    def waiting(self) -> int:
        """Rows that wait for a forward pass."""
        return sum(len(call.rows) for call in self._calls)

    def start(self, call: Call[Any]) -> None:
        """Take a call in."""
        self._calls.append(call)
        call.start(self.store)
        self._given += [row for row in call.rows if not row.waiting]

    def fail(self, error: Exception) -> None:
        """End all calls with an error."""
        calls, self._calls, self._given = self._calls, [], []
        for call in calls:
            call.rows.clear()
            call.forget()
            if not call.future.done():
                call.future.set_exception(error)
        self.store.clear()

    def step(self) -> None:
        """One forward pass: a token for every row that writes, a prefix or a step for every row that reads."""
        self._end_cancelled()
        began = time.perf_counter()
        runs = self._admit()
        harvest = self._harvest(runs, self._forward(runs) if runs else None)
        self._glean(harvest)
        if not (runs or harvest.writers or harvest.readers) and self._calls:
            raise RuntimeError("rows wait, and none of them can run")
        tokens = iter(_draw(harvest))
        _judge([row for row in harvest.readers if row.layout is not None])
        took = time.perf_counter() - began
        if runs:
            self.pace += (took - self.pace) / SMOOTH
        share = took / max(1, sum(run.new for run in runs))
        for run in runs:
            run.row.call.charge(run.known, run.new, share * run.new)
        for writer, places in harvest.writers:
            if writer.take(list(itertools.islice(tokens, len(places)))):
                writer.call.finish(writer)
        for reader in harvest.readers:
            if reader.layout is None:
                reader.call.fork(reader, self.store)
                self._given += [row for row in reader.call.rows if not row.waiting]
            else:
                reader.call.finish(reader)
        self._calls = [call for call in self._calls if call.rows]

    def _harvest(self, runs: list[Run], output: Output | None) -> Harvest:
        """Hand out what a forward pass gave."""
        harvest = Harvest()
        if output is not None and output.logits is not None:
            harvest.logits.append(output.logits)
        at = 0
        for row, _, _, reads in runs:
            del row.reads[:reads]
            if isinstance(row, WritingRow) and reads:
                harvest.writers += [(twin, range(at, at + reads)) for twin in row.call.fork(row, self.store)]
            elif isinstance(row, ReadingRow):
                if reads and output is not None:
                    row.outputs.append(output.part(at, at + reads))
                if not row.waiting:
                    harvest.readers.append(row)
            at += reads
        return harvest

    def _glean(self, harvest: Harvest) -> None:
        """Add the rows that need no forward pass."""
        given, self._given = self._given, []
        for row in given:
            if row.waiting:  # thrown out in the meantime
                continue
            if isinstance(row, ReadingRow):
                harvest.readers.append(row)
            elif isinstance(row, WritingRow):
                at = sum(part.shape[0] for part in harvest.logits)
                harvest.logits.append(row.sequence.last.logits)
                harvest.writers += [(twin, range(at, at + 1)) for twin in row.call.fork(row, self.store)]

    def _end_cancelled(self) -> None:
        for call in self._calls:
            if call.cancelled:
                for row in tuple(call.rows):
                    call.finish(row)
        self._calls = [call for call in self._calls if call.rows]

    def _admit(self) -> list[Run]:
        """The rows of the next forward pass, oldest first as long as there is room; then in the order of a batch."""
        runs: list[Run] = []
        room = CHUNK
        for row in sorted((row for call in self._calls for row in call.rows), key=attrgetter("sequence.arrival")):
            new = row.waiting
            if new > 1:
                new = min(new, room)
                room -= new
            known = len(row.sequence.ids)
            if new > 0 and self.store.reserve(row.sequence, known + new):
                runs.append(Run(row, known, new, bisect_left(row.reads, known + new)))
        return sorted(runs, key=lambda run: (run.new > 1, run.row.sequence.slot))

    def _forward(self, runs: list[Run]) -> Output:
        """Outputs at all wanted positions, in the order of the runs."""
        ids: list[int] = []
        reads: list[int] = []
        spans: list[tuple[int, int, int]] = []
        for run in runs:
            sequence = run.row.sequence
            reads += [len(ids) + at - run.known for at in run.row.reads[: run.reads]]
            fresh = run.row.ids[run.known : run.known + run.new]
            ids += fresh
            spans.append((sequence.slot or 0, run.known, run.new))
            if sequence.last is not None:
                sequence.last = None
            sequence.ids += fresh
        self.passes += 1
        return self._run(Batch(self.store, spans, ids), reads)

    def _run(self, batch: Batch, reads: list[int]) -> Output:
        """One pass over a batch; outputs at some of its tokens."""
        everything = len(reads) == len(batch.ids)
        wanted = None if everything else torch.tensor(reads, dtype=torch.long, device=batch.ids.device)
        if self.lean is not None:
            return Output(*self.lean(batch, wanted))
        common = {
            "input_ids": batch.ids[None],
            "attention_mask": attention.PREPARED,
            "position_ids": batch.positions[None],
            "use_cache": False,
            "batch": batch,
        }
        modules: Any = self.model
        if self._head is None:
            hidden: Tensor = modules(**common).last_hidden_state[0]
            return Output(hidden if wanted is None else hidden.index_select(0, wanted), None)
        logits: Tensor = modules(**common, logits_to_keep=0 if wanted is None else wanted).logits
        return Output(self._caught.pop(), logits[0])

    def _probe(self) -> Tensor:
        """The output after a few tokens, the last of them on its own."""
        sequence = Sequence(self.store)
        sequence.begin()
        self.store.reserve(sequence, len(PROBE))
        slot, before = sequence.slot or 0, len(PROBE) - 1
        self._run(Batch(self.store, [(slot, 0, before)], PROBE[:before]), [])
        output = self._run(Batch(self.store, [(slot, before, 1)], PROBE[before:]), [0])
        found = output.hidden if output.logits is None else output.logits
        assert found is not None
        return found


def _catching(caught: list[Tensor]) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    """A hook that knows the list and not the runner: a model that nobody uses has to be freed at once."""

    def catch(_head: nn.Module, args: tuple[Tensor, ...]) -> None:
        caught[:] = [args[0][0]]

    return catch


def _draw(harvest: Harvest) -> list[tuple[int, float]]:
    """What each row that writes chooses at its places: tokens with their log-probabilities."""
    if not harvest.writers:
        return []
    table = harvest.logits[0] if len(harvest.logits) == 1 else torch.cat(harvest.logits)
    wanted = [at for _, places in harvest.writers for at in places]
    if wanted != list(range(table.shape[0])):
        table = table[wanted]
    samplings: list[Sampling] = []
    uniforms: list[float] = []
    for row, places in harvest.writers:
        count, sampling = len(places), row.call.request.sampling
        samplings += [sampling] * count
        uniforms += row.uniforms(count) if sampling.temperature else [0.0] * count
    drawn: list[tuple[int, float]] = []
    for part in table.split(DRAWN):  # type: ignore[no-untyped-call]
        begin, end = len(drawn), len(drawn) + len(part)
        chosen = choose(part, samplings[begin:end], uniforms[begin:end])
        likely = part.log_softmax(-1, dtype=torch.float32).gather(1, chosen)
        if part.is_cpu:
            tokens, logprobs = chosen.tolist(), likely.tolist()
        else:
            tokens, logprobs = torch.stack((chosen, likely)).tolist()  # one trip; ids are whole numbers in fp32 too
        drawn += [(int(token), logprob) for (token,), (logprob,) in zip(tokens, logprobs, strict=True)]
    return drawn


def _judge(rows: list[ReadingRow]) -> None:
    """Set the rewards of rows that were read, in one go for each verifier."""
    groups = defaultdict(list)
    for row in rows:
        groups[row.call.judge].append(row)
    for judge, group in groups.items():
        rewards = judge([(Output.joined(row.outputs), row.layout) for row in group if row.layout is not None])
        for row, reward in zip(group, rewards, strict=True):
            row.reward = reward


def _probe(model: PreTrainedModel, **options: Any) -> Tensor:
    """The output after a few tokens by a plain pass."""
    output: Any = model(input_ids=torch.tensor([PROBE], device=model.device), use_cache=False, **options)
    last: Tensor = output.logits[:, -1] if "logits" in output else output.last_hidden_state[:, -1]
    return last


def _close(found: Tensor, wanted: Tensor) -> bool:
    """Whether two results differ by rounding alone, of whatever dtype."""
    return torch.allclose(found, wanted, rtol=0.05, atol=0.05 * float(wanted.abs().max()))


def _survey(model: PreTrainedModel) -> Survey:
    """What each layer asks of attention.

    Raises:
        ValueError: Something else than attention, which could not be rolled back, or of a kind that is not known here.
    """
    survey = Survey()
    _probe(model, batch=survey)
    count = model.config.num_hidden_layers
    if sorted(survey.shapes) != list(range(count)):
        raise ValueError(f"only {len(survey.shapes)} of its {count} layers have transformers' attention")
    for layer, kind in enumerate(getattr(model.config, "layer_types", None) or []):
        windowed = survey.windows[layer] is not None
        if kind not in ("full_attention", "sliding_attention") or (kind == "sliding_attention" and not windowed):
            raise ValueError(f"its layer {layer} has {kind}, which is not known here")
    return survey


@contextmanager
def _explained(model: PreTrainedModel) -> Iterator[None]:
    """Say what a model's failure in a first forward pass means."""
    try:
        yield
    except (ValueError, TypeError, RuntimeError, AttributeError) as error:
        raise ConfigurationError(
            f"{type(model).__name__} cannot run in process: {error}. Serve it, and use it as openai:MODEL@URL"
        ) from error

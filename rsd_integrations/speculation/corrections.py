"""Calibrated speculative decoding: overrides rejections that recur and are close calls."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field, PrivateAttr
from torch import Tensor

from rsd_core.errors import ConfigurationError
from rsd_core.version import __version__
from rsd_integrations.speculation.relaxation import Relaxation, of_tokens
from rsd_integrations.speculation.rules import AcceptanceRule, Exact, Judged, Verdicts

FORM = "rsd-corrections-1"
"""The format of correction files: JSON with `pairs` as [proposed, target's own, times]."""
IDS = 2**31
"""Ids are below this."""
MOST = 100_000
"""Maximum pairs in a file; the most frequent ones are kept."""
_learning = Lock()
"""Held by rules that learn; global, since rules are copied and pickled."""


@dataclass(frozen=True, slots=True)
class Corrections:
    """How often a target replaced a proposed token by its own."""

    vocabulary: str
    """Identity of the vocabulary of these ids."""
    pairs: dict[tuple[int, int], int] = field(default_factory=dict)
    """(proposed, target's own): times."""

    @property
    def total(self) -> int:
        """Number of corrections of all pairs."""
        return sum(self.pairs.values())

    def save(self, file: Path) -> None:
        """Write them as JSON, the most frequent first."""
        best = sorted(self.pairs.items(), key=lambda item: (-item[1], item[0]))[:MOST]
        rows = ",\n".join(json.dumps([*pair, times]) for pair, times in best)
        head = json.dumps({"format": FORM, "version": __version__, "vocabulary": self.vocabulary})[:-1]
        file.write_text(f'{head}, "pairs": [\n{rows}\n]}}\n', encoding="utf-8")

    @classmethod
    def read(cls, file: Path) -> Corrections:
        """Read a file written by `save`.

        Raises:
            ConfigurationError: There is no such file, or it holds no corrections.
        """
        try:
            data: Any = json.loads(file.read_text(encoding="utf-8"))
            if not isinstance(data, dict) or data.get("format") != FORM:
                raise ConfigurationError(f"{file} holds no corrections; `rsd corrections` makes a file that does")
            if not isinstance(data["vocabulary"], str):
                raise TypeError(f"vocabulary is {data['vocabulary']!r:.80} but must be a text")
            return cls(data["vocabulary"], dict(map(_pair, data["pairs"])))
        except FileNotFoundError:
            raise ConfigurationError(
                f"there is no file {str(file)!r} of corrections; `rsd corrections` makes one"
            ) from None
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise ConfigurationError(
                f"the corrections in {str(file)!r} cannot be read ({type(error).__name__}: {error}); make them again "
                "by `rsd corrections`"
            ) from error


@dataclass(frozen=True, slots=True, eq=False)  # rules are compared, but tensors cannot be
class _Known:
    """The corrections of a memory: those that recurred, and all of them with how often they did."""

    vocabulary: str
    pairs: Tensor
    counts: Counter[tuple[int, int]]


class Calibrated(Relaxation):
    """Calibrated speculative decoding (CSD, arXiv 2604.13634): recurring close calls are accepted.

    If the exact rule rejects x, and t is the target's most likely token, x is kept if both hold: in a calibration run
    the target corrected x to t more than `times` times (the correction memory), and z(x) - z(t) ≥ ln `ratio` (the
    semantic gate), that is, p(x) ≥ ratio · p(t) at temperature 1. On MATH500 the paper lost 7.6 points of accuracy with
    the memory alone and 1.8 with the gate alone, so neither is offered alone. The default limits are the paper's.

    The memory is a file written by `rsd corrections`, and is fixed by default; the paper's keeps learning during
    decoding (`learn`). The paper decodes greedily; when sampling, the same condition applies to exact rejections. With
    infinite `times` the rule is the exact one.
    """

    kind: Literal["csd"] = "csd"
    memory: str
    """The correction file."""
    times: Annotated[float, Field(ge=0)] = 6
    """λ: a pair needs more corrections than this; inf disables the rule."""
    ratio: Annotated[float, Field(gt=0, le=1)] = 0.01
    """τ: minimum probability of the proposed token, as a share of the likeliest token's."""
    learn: bool = False
    """Whether each exact rejection of a drafted chain is counted from then on, as in the paper. All requests share what
    the rule object learns, so answers depend on earlier ones: `rsd eval` takes the problems one by one and in order;
    with a decoder, use `concurrency=1`. Not for trees. A memory of 100,000 pairs accepts no new ones."""
    _known: _Known = PrivateAttr()

    def model_post_init(self, _context: Any) -> None:
        found = Corrections.read(Path(self.memory))
        pairs = [_key(*pair) for pair, times in found.pairs.items() if times > self.times]
        self._known = _Known(found.vocabulary, torch.tensor(sorted(pairs), dtype=torch.int64), Counter(found.pairs))

    @property
    def vocabulary(self) -> str:
        return self._known.vocabulary

    @property
    def learns(self) -> bool:
        return self.learn

    @property
    def corrections(self) -> Corrections:
        """The current memory; its `save` writes what was learned."""
        with _learning:
            return Corrections(self._known.vocabulary, dict(self._known.counts))

    def rescues(self, judged: Judged, accepted: Tensor) -> Tensor:
        z, tokens = judged.logits, judged.tokens
        most, own = z.max(1)
        close = of_tokens(z, tokens) - most >= math.log(self.ratio)
        if self.learn:
            return self._learned(judged, accepted, own, close)
        return close & torch.isin(_key(tokens, own), self._known.pairs.to(z.device))

    def _learned(self, judged: Judged, accepted: Tensor, own: Tensor, close: Tensor) -> Tensor:
        """As `rescues`, where each rejection counts for those after it, up to the end of its chain."""
        kept, near = accepted.tolist(), close.tolist()
        pairs = list(zip(judged.tokens.tolist(), own.tolist(), strict=True))
        rescued, counts = [False] * len(kept), self._known.counts
        with _learning:
            for chain in judged.chains:
                for i in chain:
                    if kept[i]:
                        continue
                    rescued[i] = near[i] and counts[pairs[i]] > self.times
                    if pairs[i] in counts or len(counts) < MOST:
                        counts[pairs[i]] += 1
                    if not rescued[i]:
                        break
        return torch.tensor(rescued, device=accepted.device)


class Noting(AcceptanceRule):
    """The exact rule, which also counts the target's corrections: for a calibration run of CSD."""

    kind: Literal["noting"] = "noting"
    lossless: ClassVar[bool] = True
    _noted: Counter[tuple[int, int]] = PrivateAttr(default_factory=Counter)
    _lock: Any = PrivateAttr(default_factory=Lock)

    def judge(self, judged: Judged) -> Verdicts:
        verdicts = Exact().judge(judged)
        own = judged.logits.argmax(1).tolist()
        accepted, tokens = verdicts.accepted.tolist(), judged.tokens.tolist()
        first = (next((i for i in chain if not accepted[i]), None) for chain in judged.chains)
        self._note((tokens[i], own[i]) for i in first if i is not None)
        return verdicts

    def corrections(self, vocabulary: str) -> Corrections:
        """All corrections counted.

        Args:
            vocabulary: Identity of the vocabulary whose ids the tokens are.
        """
        with self._lock:
            return Corrections(vocabulary, dict(self._noted))

    def _note(self, pairs: Iterable[tuple[int, int]]) -> None:
        with self._lock:
            self._noted.update(pairs)


def _pair(row: Any) -> tuple[tuple[int, int], int]:
    """A row of the file."""
    proposed, own, times = row
    whole = all(type(number) is int for number in row)  # excludes True
    if not whole or min(proposed, own) < 0 or max(proposed, own) >= IDS or times < 1:
        raise ValueError(f"{row!r:.80} is not [proposed, own, times]: two ids in [0, 2**31) and a count ≥ 1")
    return (proposed, own), times


def _key(proposed: Any, own: Any) -> Any:
    """One number for a pair of ids."""
    return proposed * IDS + own

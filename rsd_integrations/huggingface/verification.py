"""Applies the acceptance rules of requests to proposed tokens, and keeps the distributions of drafts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from rsd_integrations.huggingface.sampling import distributions
from rsd_integrations.inprocess.calls import SampledRow
from rsd_integrations.inprocess.draft_call import DraftRow
from rsd_integrations.inprocess.speculative_call import SpeculativeRow
from rsd_integrations.speculation.rules import AcceptanceRule, Judged

JUDGED_AT_ONCE = 64
"""Maximum tokens judged at once, unless one row has more."""
Sampled = list[tuple[int, float]]
"""A token for each position, with its log-probability."""


def judge(logits: Tensor, possible: Tensor, rows: Sequence[tuple[SampledRow, range]], sampled: Sampled) -> None:
    """Replace the tokens that the target would have sampled with those chosen by rules.

    Args:
        logits: [positions, vocabulary].
        possible: The same, with tokens forbidden by a grammar masked.
        rows: The rows with their positions, in order.
        sampled: The token sampled at each position as if nothing were proposed; changed where a rule decides otherwise.
            Rows of sampling drafters get the distributions they were sampled from.
    """
    groups = defaultdict[tuple[AcceptanceRule, bool], list[tuple[SpeculativeRow, int]]](list)
    begin = 0
    for row, places in rows:
        if isinstance(row, SpeculativeRow) and row.rule is not None:
            groups[row.rule, row.proposal.draft is None].append((row, begin))
        elif isinstance(row, DraftRow) and row.sampling.temperature:
            own = distributions(possible[begin : begin + 1], [row.sampling])
            row.draft = own if row.draft is None else torch.cat((row.draft, own))
        begin += len(places)
    for (rule, _), group in groups.items():
        try:
            for part in _parts(group):
                _judge(rule, part, logits, possible, sampled)
        except Exception as fault:  # the rule's fault, not the model's: rows with other rules continue
            for speculating, _ in group:
                speculating.fault = fault


def _parts(group: Sequence[tuple[SpeculativeRow, int]]) -> Iterator[list[tuple[SpeculativeRow, int]]]:
    """The rows of a group, a few at a time, since judging takes memory for several copies of their logits."""
    part: list[tuple[SpeculativeRow, int]] = []
    tokens = 0
    for row, begin in group:
        tokens += len(row.proposal)
        if part and tokens > JUDGED_AT_ONCE:
            yield part
            part, tokens = [], len(row.proposal)
        part.append((row, begin))
    yield part


def _judge(
    rule: AcceptanceRule,
    group: Sequence[tuple[SpeculativeRow, int]],
    logits: Tensor,
    possible: Tensor,
    sampled: Sampled,
) -> None:
    """Apply one rule to the proposals of some rows, each with the index of its first position."""
    tokens: list[int] = []
    befores: list[int] = []  # the position before each token
    chains: list[range] = []
    numbers: list[tuple[float, float]] = []
    for row, begin in group:
        proposal, first, own = row.proposal, len(tokens), row.uniforms(len(row.proposal) + 1)
        parents = range(-1, len(proposal) - 1) if proposal.parents is None else proposal.parents
        tokens += proposal.tokens
        befores += [begin + 1 + parent for parent in parents]
        numbers += [(accept, own[1 + parent]) for accept, parent in zip(row.accept_numbers(), parents, strict=True)]
        places = range(first, len(tokens))
        chains += [places] if proposal.parents is None else [range(i, i + 1) for i in places]
    device, samplings = logits.device, [row.sampling for row, _ in group for _ in row.proposal.tokens]
    raw, target = logits[befores].float(), distributions(possible[befores], samplings)
    judged = Judged(
        logits=raw,
        target=target,
        draft=_drafts([row.proposal.draft for row, _ in group], target),
        tokens=torch.tensor(tokens, device=device),
        own=torch.tensor([sampled[before][0] for before in befores], device=device),
        uniforms=torch.tensor(numbers, dtype=torch.float32, device=device),
        chains=chains,
    )
    verdicts = rule.judge(judged)
    chosen = torch.where(verdicts.accepted, judged.tokens, verdicts.corrections)
    logprobs = raw.log_softmax(-1).gather(1, chosen[:, None]).squeeze(1).tolist()
    overridden = [False] * len(tokens) if verdicts.overridden is None else verdicts.overridden.tolist()
    accepted, ids = verdicts.accepted.tolist(), chosen.tolist()
    settled: set[int] = set()  # positions that continue with an accepted child
    at = 0
    for row, begin in group:
        marks = [False] * (len(row.proposal) + 1)
        for i in range(at, at + len(row.proposal)):
            place = befores[i]
            # Of several children the first accepted one continues; if there is none, the last correction counts.
            if place not in settled:
                sampled[place] = ids[i], logprobs[i]
                marks[place - begin] = overridden[i]
                if accepted[i]:
                    settled.add(place)
        row.overridden, at = marks, at + len(row.proposal)


def _drafts(drafts: Sequence[Tensor | None], like: Tensor) -> Tensor | None:
    """Q of all rows, as wide as p: models of one vocabulary may differ in the number of unused ids."""
    known = [draft.to(like.device) for draft in drafts if draft is not None]
    if not known:
        return None
    width = like.shape[1]
    return torch.cat([pad(draft[:, :width], (0, max(0, width - draft.shape[1]))) for draft in known])

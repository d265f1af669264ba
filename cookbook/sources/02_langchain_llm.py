# %% [markdown]
# # RSD as an LLM in a LangChain chain
#
# Learn how to use RSD as the LLM of a chain: text in, text out, batches side by side, and the trace when you want it.

# %%
from langchain_core.output_parsers import BaseOutputParser
from langchain_core.prompts import PromptTemplate

from rsd_core import boxed
from rsd_integrations.langchain import RSDLLM


class BoxedNumber(BaseOutputParser[int | None]):
    """The number in the answer's box."""

    def parse(self, text: str) -> int | None:
        found = boxed(text)
        return int(found) if found else None


llm = RSDLLM(draft="embedded:draft", target="embedded:target", verifier="embedded:verifier", policy="binary_step:0.7")
prompt = PromptTemplate.from_template(
    "{name} has {start} {thing}. Then {name} buys {more} more. How many {thing} does {name} have now?"
)
chain = prompt | llm | BoxedNumber()
print(chain.invoke({"name": "Mia", "start": 45, "more": 12, "thing": "apples"}))

# %% [markdown]
# ## A batch is decoded side by side
#
# All prompts of a batch are in flight at once; their models' calls share forward passes. A prompt's answer is the same
# alone and in any batch.

# %%
people = [
    {"name": "Ben", "start": 20, "more": 12, "thing": "cards"},
    {"name": "Zoe", "start": 71, "more": 56, "thing": "pens"},
    {"name": "Tom", "start": 136, "more": 57, "thing": "shells"},
]
print(chain.batch(people))
print([chain.invoke(one) for one in people] == chain.batch(people))

# %% [markdown]
# ## The trace behind a text
#
# A plain text has no room for steps and rewards. `generate` returns them as well, as data from which a `Result` can be
# built. (Messages of `ChatRSD` have them too, for `result_of`.)

# %%
from rsd_core import Result
from rsd_integrations.display import show

made = llm.generate([prompt.format(**people[2])])
show(Result.from_dict(made.generations[0][0].generation_info["rsd"]))

# %% [markdown]
# ## Options of one call
#
# Stop strings, seeds and limits can be bound like those of any LLM. Mistakes are reported before a model is loaded.

# %%
print(repr(llm.bind(stop=["\n\n"]).invoke(prompt.format(**people[0]))))
try:
    RSDLLM(policy="binary_stop:0.7")
except ValueError as error:
    print(str(error).splitlines()[2].strip()[:150])

# %% [markdown]
# ## What next
#
# - [Chat and streaming](03_chat_and_streaming.ipynb): messages instead of text.
# - [An agent with tools](04_agent_with_tools.ipynb).
# - [Swapping providers](05_swapping_providers.ipynb): your own models in the three places.

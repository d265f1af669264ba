# %% [markdown]
# # Chat and streaming
#
# Learn how `ChatRSD` replaces a chat model, how a stream grows by accepted steps, and where to find usage and trace.

# %%
from rsd_integrations.langchain import ChatRSD

chat = ChatRSD(policy="binary_step:0.7")  # the embedded models are the default
question = (
    "Lea has 71 pens. Later she buys 56 more. Later she gets 36 as a gift. After that the sun shines. Then she buys 4 "
    "bags of 4. After that she buys 4 more. Next she walks 39 miles. How many pens does Lea have now?"
)
message = chat.invoke(question)
print(message.text)

# %% [markdown]
# ## Usage and cost
#
# `usage_metadata` covers the answer: the prompt and what was written after it, where counters and LangSmith look for
# it. You pay for all three models, and for rejected drafts too: that is the bill.

# %%
from rsd_integrations.langchain import bill_of

print(message.usage_metadata)
for item in bill_of(message):
    print(item["role"], item["calls"], "calls,", item["usage"]["total_tokens"], "tokens")
print(message.response_metadata["finish_reason"], message.response_metadata["model_name"])

# %% [markdown]
# ## A stream grows by accepted steps
#
# Rejected text never reaches the reader, so nothing is ever taken back. Each chunk includes its steps.

# %%
for chunk in chat.stream(question):
    for step in chunk.additional_kwargs.get("rsd_steps", []):
        print(f"{step['author']:6} | {chunk.text.strip()}")

# %% [markdown]
# The same from asynchronous code, here three conversations at once.

# %%
import asyncio


async def ask(name: str) -> str:
    story = f"{name} has 30 pens. Later {name} wins 14. How many pens does {name} have now?"
    return "".join([chunk.text async for chunk in chat.astream(story)])


for text in await asyncio.gather(*(ask(name) for name in ("Zoe", "Ben", "Mia"))):
    print(text.splitlines()[-1])

# %% [markdown]
# ## The trace travels with the message
#
# It survives a cache, a checkpoint or a history. It includes the texts of rejected drafts only with `trace_inner=True`,
# because metadata may reach users along with the answer.

# %%
from rsd_integrations.display import show
from rsd_integrations.langchain import result_of

show(result_of(ChatRSD(policy="binary_step:0.7", trace_inner=True).invoke(question)))

# %% [markdown]
# ## Steps as events of a chain
#
# `RSDRunnable` emits every step as an event, for user interfaces that show progress.

# %%
from rsd_integrations.langchain import RSDRunnable

async for event in RSDRunnable().astream_events(question, version="v2"):
    if event["name"] == "rsd_step":
        print(event["data"]["author"], event["data"]["reward"] and round(event["data"]["reward"], 3))

# %% [markdown]
# ## What next
#
# - [An agent with tools](04_agent_with_tools.ipynb)
# - [Swapping providers](05_swapping_providers.ipynb)
# - [Budgets](06_budgets_and_calibration.ipynb): change the policy from call to call

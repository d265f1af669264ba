# %% [markdown]
# # An agent with tools
#
# Learn how `RSDMiddleware` puts a cheap model in front of a LangChain agent's model, and what the agent's state
# records.
#
# **The chat models in this notebook are scripted.** No tool-calling model is small enough to ship, so two stand-ins
# follow rules: a careful one, and a hurried one that makes two mistakes. The agent, its tools, the middleware and the
# verifier are real. With providers, only the two lines that create the models change.

# %%
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatResult


class Scripted(BaseChatModel):
    """Plays one reply per result of a tool that it has seen, as a tool-calling model would."""

    replies: list[AIMessage]

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def bind_tools(self, tools, **options):
        return self

    def _generate(self, messages, stop=None, run_manager=None, **options):
        seen = sum(isinstance(message, ToolMessage) for message in messages)
        words = sum(len(str(message.content).split()) for message in messages)
        usage = {"input_tokens": words, "output_tokens": 8, "total_tokens": words + 8}
        reply = self.replies[seen].model_copy(update={"usage_metadata": usage})
        return ChatResult(generations=[ChatGeneration(message=reply)])


def call(tool: str, **args) -> AIMessage:
    return AIMessage("", tool_calls=[{"name": tool, "args": args, "id": f"{tool}-1"}])


strong = Scripted(
    replies=[call("stock", item="pens"), call("price", item="pens", count=40), AIMessage("They cost 60 €.")]
)
cheap = Scripted(
    replies=[call("stock", item="pins"), call("price", item="pens", count=40), AIMessage("They cost 50 €.")]
)

# %% [markdown]
# ## Tools and a verifier
#
# A verifier of agent turns can be a reward model, a judge, or a plain function of the conversation and the reply. This
# one is a rule: a tool may only be called with an item that the user named, and an answer may only contain numbers that
# a tool returned.

# %%
import re

from langchain_core.tools import tool


@tool
def stock(item: str) -> str:
    """How many of an item are in stock."""
    return f"There are 40 {item}."


@tool
def price(item: str, count: int) -> str:
    """The price of so many items."""
    return f"{count} {item} cost {count * 1.5:.0f} €."


def grounded(messages, reply) -> float:
    """1 where everything in the reply comes from the conversation."""
    said = " ".join(str(message.content) for message in messages)
    for wanted in reply.tool_calls:
        if wanted["args"]["item"] not in said:
            return 0.0
    return float(all(number in said for number in re.findall(r"\d+", reply.text)))


# %% [markdown]
# ## The agent
#
# The agent's own model is the target. RSD is one entry in the list of middleware.

# %%
from langchain.agents import create_agent

from rsd_integrations.langchain import RSDMiddleware

agent = create_agent(strong, [stock, price], middleware=[RSDMiddleware(draft=cheap, verifier=grounded)])
state = agent.invoke({"messages": [HumanMessage("What do all pens in stock cost?")]})
for message in state["messages"]:
    calls = [f"{one['name']}{one['args']}" for one in getattr(message, "tool_calls", [])]
    print(f"{message.type:5} {message.text or ', '.join(calls)}")

# %% [markdown]
# The hurried model asked for `pins` and invented a price. Both turns were replaced; the one between them was kept. The
# state shows this, call by call.

# %%
for record in state["rsd"]:
    print(record["author"], record["reward"], record["usage"])

# %% [markdown]
# ## ChatRSD as the agent's model
#
# The same with RSD inside the model: the agent does not change.

# %%
from rsd_integrations.langchain import ChatRSD, result_of

model = ChatRSD(draft=cheap, target=strong, verifier=grounded)
state = create_agent(model, [stock, price]).invoke({"messages": [HumanMessage("What do all pens in stock cost?")]})
for message in state["messages"]:
    if isinstance(message, AIMessage):
        print([(step.author, step.reward) for step in result_of(message).steps])
print(state["messages"][-1].text)

# %% [markdown]
# ## With real models
#
#     agent = create_agent("anthropic:STRONG", tools, middleware=[
#         RSDMiddleware(draft="openai:CHEAP", verifier=grounded)])
#
# Put `ModelRetryMiddleware` and `ModelFallbackMiddleware` *before* it in the list: then the whole turn is retried.
#
# ## What next
#
# - [An agent that decides by risk](18_agent_by_risk.ipynb): a policy for each tool, approval, budgets
# - [Swapping providers](05_swapping_providers.ipynb)
# - [A judge instead of a reward model](07_a_judge.ipynb)
# - [RAG](09_rag.ipynb)

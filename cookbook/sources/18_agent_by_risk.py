# %% [markdown]
# # An agent that decides by risk
#
# Learn to decide, tool by tool, what a cheap model may do in an agent: reading is drafted, writing is judged, and only
# the strong model moves money, after a person has agreed. Then give the agent a budget and read the rewards in a trace.
#
# **The chat models in this notebook are scripted**, as in [An agent with tools](04_agent_with_tools.ipynb). The agent,
# its tools, LangChain's middleware and RSD are real.

# %%
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatResult


class Scripted(BaseChatModel):
    """Plays one reply per result of a tool since the last question."""

    replies: list
    name_of_model: str

    @property
    def _llm_type(self) -> str:
        return "scripted"

    @property
    def model_name(self) -> str:
        return self.name_of_model

    def bind_tools(self, tools, **options):
        return self

    def _generate(self, messages, stop=None, run_manager=None, **options):
        last = max(i for i, message in enumerate(messages) if isinstance(message, HumanMessage))
        seen = sum(isinstance(message, ToolMessage) for message in messages[last:])
        words = sum(len(str(message.content).split()) for message in messages)
        usage = {"input_tokens": words, "output_tokens": 8, "total_tokens": words + 8}
        reply = self.replies[seen].model_copy(update={"usage_metadata": usage, "id": None})
        return ChatResult(generations=[ChatGeneration(message=reply)])


def call(tool: str, **args) -> AIMessage:
    return AIMessage("", tool_calls=[{"name": tool, "args": args, "id": f"{tool}-1"}])


careful = Scripted(
    name_of_model="careful",
    replies=[
        call("balance", account="checking"),
        call("transfer_money", amount=900, to="landlord"),
        call("send_email", to="landlord", text="The rent of 900 € is on its way."),
        AIMessage("The rent is paid, and your landlord knows."),
    ],
)
hurried = Scripted(
    name_of_model="hurried",
    replies=[
        call("balance", account="checking"),
        call("transfer_money", amount=9000, to="landlord"),
        call("send_email", to="everyone", text="The rent is on its way."),
        AIMessage("The rent is paid, and your landlord knows."),
    ],
)

# %% [markdown]
# ## Tools, from harmless to dangerous

# %%
from langchain_core.tools import tool


@tool
def balance(account: str) -> str:
    """What is on an account."""
    return f"There are 2,400 € on {account}."


@tool
def send_email(to: str, text: str) -> str:
    """Sends an email."""
    return f"sent to {to}"


@tool
def transfer_money(amount: int, to: str) -> str:
    """Moves money."""
    return f"{amount} € went to {to}"


tools = [balance, send_email, transfer_money]

# %% [markdown]
# ## A policy for each tool
#
# The verifier sees each drafted message with its calls, before anything is executed. If a policy needs no reward, it is
# not called.

# %%
from rsd_integrations.langchain import RSDMiddleware


def judge(messages, reply) -> float:
    """A rule in place of a judge: emails go to people whom the user mentioned."""
    said = " ".join(str(message.content) for message in messages)
    return float(all(wanted["args"].get("to", "") in said for wanted in reply.tool_calls))


by_risk = {
    "balance": "always_draft",  # reading does no harm
    "send_*": "binary_step:0.9",  # as the judge says
    "transfer_money": "always_target",  # never a draft
}
rsd = RSDMiddleware(draft=hurried, verifier=judge, policy="binary_step:0.7", tool_policies=by_risk)

# %% [markdown]
# LangChain's own middleware asks a person before money moves. It comes first in the list, and only sees what RSD let
# through.

# %%
from langchain.agents import create_agent
from langchain.agents.middleware import HumanInTheLoopMiddleware
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command

approval = HumanInTheLoopMiddleware(interrupt_on={"transfer_money": True})
agent = create_agent(careful, tools, middleware=[approval, rsd], checkpointer=InMemorySaver())
thread = {"configurable": {"thread_id": "rent"}}
state = agent.invoke({"messages": [HumanMessage("Pay my landlord the rent, 900 €, and write to him.")]}, thread)
print(state["__interrupt__"][0].value["action_requests"][0]["args"])

# %% [markdown]
# The draft wanted to move 9,000 €. The person was not asked about that: they see the strong model's call.

# %%
state = agent.invoke(Command(resume={"decisions": [{"type": "approve"}]}), thread)
for message in state["messages"]:
    calls = [f"{one['name']}{one['args']}" for one in getattr(message, "tool_calls", [])]
    print(f"{message.type:5} {message.text or ', '.join(calls)}")

# %% [markdown]
# The records in the agent's state show, call by call, who wrote it and why.

# %%
for record in state["rsd"]:
    print(f"{record['author']:6} {record['reward']!s:4} {record['tools']} {record['refused'] or ''}")

# %% [markdown]
# ## What can never be executed
#
# A draft that was cut in the middle of a call, names an unknown tool, or is not valid JSON is refused, whatever its
# policy.

# %%
cut = call("balance", account="check").model_copy(update={"response_metadata": {"finish_reason": "length"}})
cheap = Scripted(name_of_model="cut", replies=[cut, *careful.replies[1:]])
rsd = RSDMiddleware(draft=cheap, verifier=judge, tool_policies={"balance": "always_draft"})
state = create_agent(careful, tools, middleware=[rsd]).invoke({"messages": [HumanMessage("What do I have?")]})
print(state["rsd"][0]["author"], "|", state["rsd"][0]["refused"])

# %% [markdown]
# ## A budget
#
# A run of the agent may call the strong model once, and the whole thread may cost half a cent. Both are counted from
# the records, so a checkpointer keeps them, and a run that waits for a person resumes with what it had left.

# %%
rsd = RSDMiddleware(
    draft=hurried,
    verifier=judge,
    tool_policies=by_risk,
    run_budget={"max_target_calls": 1},
    thread_budget={"max_cost": 0.005},
    prices={"hurried": (0.05, 0.40), "careful": (3.0, 15.0)},
)
agent = create_agent(careful, tools, middleware=[rsd], checkpointer=InMemorySaver())
state = agent.invoke({"messages": [HumanMessage("Pay my landlord the rent, 900 €, and write to him.")]}, thread)
print([record["author"] for record in state["rsd"]])
print(state["messages"][-1].text)
print(f"{sum(record['cost'] for record in state['rsd']):.6f} $")

# %% [markdown]
# The money was moved, and the email would have needed a second call to the strong model. `exit_behavior="error"` raises
# an error instead, and `"draft"` keeps drafts that call no tool.
#
# ## Rewards in traces
#
# In LangSmith each model call is a run with its record as output. Other tracers see the same; here is one that prints.

# %%
from langchain_core.callbacks import BaseCallbackHandler


class Print(BaseCallbackHandler):
    def on_chain_end(self, outputs, **run):
        if isinstance(outputs, dict) and "author" in outputs:
            print(outputs["middleware"], {name: outputs[name] for name in ("author", "reward", "tools", "policy")})


rsd = RSDMiddleware(draft=hurried, verifier=judge, tool_policies=by_risk)
question = {"messages": [HumanMessage("Pay my landlord the rent, 900 €, and write to him.")]}
state = create_agent(careful, tools, middleware=[rsd]).invoke(question, {"callbacks": [Print()]})

# %% [markdown]
# ## With real models
#
#     agent = create_agent("anthropic:STRONG", tools, middleware=[
#         approval, RSDMiddleware(draft="openai:CHEAP", verifier=judge, tool_policies=by_risk)])
#
# ## What next
#
# - [The middleware in full](../docs/guides/langchain/middleware.md)
# - [A judge instead of a rule](07_a_judge.ipynb)
# - [Budgets and calibration](06_budgets_and_calibration.ipynb)

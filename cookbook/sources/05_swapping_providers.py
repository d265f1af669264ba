# %% [markdown]
# # Swapping providers
#
# Learn the three ways to give a model: a *spec* (a short text), an object, or a LangChain model of any provider; and
# how to mix them.

# %%
from textwrap import shorten

from rsd_core import backends

for kind in ("embedded", "hf", "prm", "langchain", "judge", "rule", "cascade"):  # `rsd models` lists all of them
    backend = backends()[kind]
    print(f"{kind + ':':11} {shorten(backend.summary, 84, placeholder=' …')}")

# %% [markdown]
# ## By spec
#
# A spec is `KIND:REST`, the same in Python, in YAML, on the command line and in every adapter. One configuration, four
# sets of models:

# %%
from rsd_core import RSDConfig

question = "Mia has 45 apples. Then she buys 12 more. Next she sells 9. How many apples does Mia have now?"
for models in (
    {},
    {"verifier": "embedded:prm"},
    {"verifier": "cascade:rule:arithmetic|embedded:verifier"},
    {"drafter": "scripted:draft", "verifier": "scripted:verifier", "target": "scripted:target"},
):
    with RSDConfig(**models).build() as decoder:
        result = decoder.run(question)
    print(result.answer, [step.author for step in result.steps], models or "the default")

# %% [markdown]
# The scripted models always answer the same question: they are fakes for testing a pipeline.
#
# Where a model runs only changes its spec. For real models you would write:
#
# | you have | drafter or target | verifier |
# |---|---|---|
# | checkpoints in this process | `hf:ORG/MODEL` | `prm:ORG/REWARD-MODEL` |
# | a vLLM, SGLang, llama.cpp or Ollama server | `openai:MODEL@http://localhost:8000/v1` | `pooling:…`, `judge:openai:…` |
# | a provider with a LangChain class | `langchain:anthropic:MODEL` | `judge,mode=rubric:langchain:…` |
#
# The LangChain adapters also take a provider's model under its `init_chat_model` name, in all three roles:
#
#     ChatRSD(draft="openai:CHEAP", target="anthropic:STRONG", verifier="openai:JUDGE")
#
# Mistakes are reported immediately, with the fix:

# %%
from rsd_core import load

for wrong in ("embeded:draft", "hf:", "embedded:big"):
    try:
        load(wrong)
    except ValueError as error:
        print(shorten(str(error), 95, placeholder=" …"))

# %% [markdown]
# ## By object: LangChain models of any provider
#
# Most APIs cannot continue an unfinished message, so RSD uses whole messages there: the cheap model writes one, the
# verifier scores it, and the strong model rewrites it if the score is too low. The two stand-ins replace
# `ChatOpenAI(…)` and `ChatAnthropic(…)`.

# %%
from langchain_core.language_models.fake_chat_models import FakeListChatModel

from rsd_integrations.langchain import ChatRSD, result_of

cheap = FakeListChatModel(responses=["Well, that is a question one could talk about for hours."])
strong = FakeListChatModel(responses=["Paris."])


def short(messages, reply) -> float:
    """Any function can be the verifier."""
    return 0.9 if len(reply.text) < 40 else 0.1


message = ChatRSD(draft=cheap, target=strong, verifier=short).invoke("What is the capital of France?")
print(message.text, result_of(message).steps[0].author)

# %% [markdown]
# ## Mixed: a local drafter, a hosted target
#
# Each role is a separate object, so a model in this process can draft for one behind an API. With prices, the ledger
# shows money.

# %%
from rsd_core import BinaryStep, Price, RewardGuidedDecoder, Settings
from rsd_integrations.langchain import FunctionVerifier, LangChainTarget

hosted = LangChainTarget(
    FakeListChatModel(responses=["Mia has 45+12-9=48 apples: \\boxed{48}."]), price=Price(prompt=3.0, generated=15.0)
)
drafter = load("embedded:draft")
drafter.price = Price(0, 0)  # it runs on our own machine
verifier = FunctionVerifier(lambda messages, reply: 0.2)  # so that the target is asked
verifier.price = Price(0, 0)
mixed = RewardGuidedDecoder(
    drafter=drafter,
    verifier=verifier,
    target=hosted,
    policy=BinaryStep(delta=0.7),
    settings=Settings(granularity="turn"),
)
result = mixed.run(question)
print(result.steps[0].author, result.answer, f"{result.ledger.total.cost:.6f}")

# %% [markdown]
# ## What next
#
# - [Three servers](11_three_servers.ipynb): the roles behind OpenAI-compatible endpoints
# - [A plugin package](12_plugin_package.ipynb): your own kind of spec
# - [A custom rule as verifier](08_rule_verifier.ipynb)

# %% [markdown]
# # Retrieval with RSD answering
#
# Learn how RSD answers from retrieved text, in LangChain and in LlamaIndex.
#
# **Limits of the embedded models.** They solve one kind of word problem and know nothing else. So the corpus here is a
# collection of stories about who bought what, and the question is how many things somebody has now. Retrieval is real,
# the answer is computed from the retrieved text, and every step is verified. With larger models the same code answers
# ordinary questions.

# %%
STORIES = [
    "Mia has 45 apples. Then she buys 12 more. Next she sells 9.",
    "Lea has 71 pens. Later she buys 56 more. Later she gets 36 as a gift.",
    "Ben has 20 cards. Then he buys 12 more. After that he wins 7.",
    "Zoe has 30 shells. Later she loses 14. Then she finds 5.",
    "Tom has 136 coins. Next he gets 57 as a gift.",
]

# %% [markdown]
# ## In LangChain
#
# A retriever that ranks by shared words is enough for five documents. Replace it with yours.

# %%
import re

from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever


def words(text: str) -> set[str]:
    return set(re.findall(r"[a-z]+", text.lower()))


class ByWords(BaseRetriever):
    """The documents that share most words with the question."""

    documents: list[Document]
    k: int = 1

    def _get_relevant_documents(self, query, *, run_manager):
        return sorted(self.documents, key=lambda d: -len(words(d.page_content) & words(query)))[: self.k]


retriever = ByWords(documents=[Document(story, metadata={"line": i}) for i, story in enumerate(STORIES, 1)])
print(retriever.invoke("How many cards does Ben have now?"))

# %%
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableLambda, RunnablePassthrough

from rsd_integrations.langchain import ChatRSD, result_of

prompt = ChatPromptTemplate.from_template("{context} {question}")
context = retriever | RunnableLambda(lambda found: " ".join(document.page_content for document in found))
model = ChatRSD(policy="binary_step:0.7", trace_inner=True)
chain = {"context": context, "question": RunnablePassthrough()} | prompt | model

questions = [
    "How many apples does Mia have now?",
    "How many cards does Ben have now?",
    "How many coins does Tom have now?",
]
for question, message in zip(questions, chain.batch(questions)):
    result = result_of(message)
    print(question, result.answer, [step.author for step in result.steps])

# %% [markdown]
# The trace shows what the answer is based on: the retrieved story is in the prompt, and each step was scored against
# it.

# %%
from rsd_integrations.display import show

show(result_of(chain.invoke("How many pens does Lea have now?")))

# %% [markdown]
# ## In LlamaIndex
#
# `RSDLLM` works wherever LlamaIndex takes an LLM. The embedding is a stand-in that counts words, so that nothing has to
# be downloaded; the query engine and its template are LlamaIndex's own.

# %%
from llama_index.core import Document as Page
from llama_index.core import PromptTemplate, VectorStoreIndex
from llama_index.core.embeddings import BaseEmbedding

from rsd_integrations.llamaindex import RSDLLM

NAMES = ["mia", "lea", "ben", "zoe", "tom", "apples", "pens", "cards", "shells", "coins"]


class NameEmbedding(BaseEmbedding):
    """One dimension for each name and thing."""

    def _get_text_embedding(self, text):
        return [float(name in words(text)) + 0.01 for name in NAMES]

    _get_query_embedding = _get_text_embedding

    async def _aget_query_embedding(self, query):
        return self._get_text_embedding(query)


index = VectorStoreIndex.from_documents([Page(text=story) for story in STORIES], embed_model=NameEmbedding())
engine = index.as_query_engine(
    llm=RSDLLM(policy="binary_step:0.7"),
    similarity_top_k=1,
    text_qa_template=PromptTemplate("{context_str} {query_str}"),
)
answer = engine.query("How many shells does Zoe have now?")
print(answer)
print("from:", answer.source_nodes[0].text)

# %% [markdown]
# ## What next
#
# - [Swapping providers](05_swapping_providers.ipynb): models that read more than word problems
# - [A judge](07_a_judge.ipynb): verify that an answer is supported by the retrieved text

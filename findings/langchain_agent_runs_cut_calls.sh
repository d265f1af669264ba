#!/usr/bin/env bash
# LangChain: an agent that is streamed runs a tool call that was cut, and one that is no JSON
# Versions: langchain-core==1.8.3 langchain==1.5.2 langgraph==1.2.24
# Expected: a call whose arguments end at `{"amount": 100` is in `invalid_tool_calls`, as with `invoke` of providers'
#   classes, whatever is streamed, and no tool runs.
# Seen: streamed with stream_mode="messages", the tool runs with 100; with `{bad` it runs with no arguments at all. With
#   version="v3" of the streaming protocol it does not run.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -qq langchain-core==1.8.3 langchain==1.5.2 langgraph==1.2.24
cd "$work"
venv/bin/python -W ignore - <<'END' || { echo 'no longer as seen before'; exit 1; }
from langchain.agents import create_agent
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, ToolMessage
from langchain_core.messages.tool import invalid_tool_call, tool_call_chunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult

ran = []


def transfer_money(amount: int = 0) -> str:
    """Moves money."""
    ran.append(amount)
    return "moved"


class Cut(BaseChatModel):
    """Gives a broken call as providers' classes do: invalid when invoked, and its text when streamed."""

    arguments: str

    @property
    def _llm_type(self):
        return "cut"

    def bind_tools(self, tools, **options):
        return self

    def _generate(self, messages, stop=None, run_manager=None, **options):
        broken = [invalid_tool_call(name="transfer_money", args=self.arguments, id="c", error=None)]
        done = isinstance(messages[-1], ToolMessage)
        message = AIMessage("done") if done else AIMessage("", invalid_tool_calls=broken)
        return ChatResult(generations=[ChatGeneration(message=message)])

    def _stream(self, messages, stop=None, run_manager=None, **options):
        calls = [tool_call_chunk(name="transfer_money", args=self.arguments, id="c", index=0)]
        done = isinstance(messages[-1], ToolMessage)
        chunk = AIMessageChunk("done") if done else AIMessageChunk("", tool_call_chunks=calls)
        chunk.response_metadata = {"finish_reason": "stop" if done else "length"}
        yield ChatGenerationChunk(message=chunk)


def found(arguments, run):
    ran.clear()
    run(create_agent(Cut(arguments=arguments), [transfer_money]), {"messages": [("user", "Move 1000.")]})
    return list(ran)


def v3(agent, question):
    streamed = agent.stream_events(question, version="v3")
    [str(message.text) for message in streamed.messages]
    streamed.output


ways = {
    "invoke": lambda agent, question: agent.invoke(question),
    "stream": lambda agent, question: list(agent.stream(question, stream_mode="messages")),
    "v3": v3,
}
seen = {(arguments, name): found(arguments, run) for arguments in ('{"amount": 100', "{bad") for name, run in ways.items()}
for (arguments, name), amounts in seen.items():
    print(f"{arguments!r} by {name}: the tool ran with {amounts or 'nothing: it did not run'}")
assert [amounts for (_, name), amounts in seen.items() if name == "stream"] == [[100], [0]]
assert not any(amounts for (_, name), amounts in seen.items() if name != "stream")
print('as seen before')
END

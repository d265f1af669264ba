#!/usr/bin/env bash
# LiteLLM's streams of completions end with a choice that has no text, and lose the prompt's ids, which its streams of chats keep
# Versions: litellm==1.110.2
# Expected: events are passed on as they come: the last one with its text, its finish reason and the stop string that
#   ended it, the first one with the prompt's ids, each with the counts that the server sends with it.
# Seen: the last event is split in two. The first half has text and stop_reason and no finish reason; the second has the
#   finish reason and, on the route of completions, no `text` at all. Prompt ids are gone there and kept in chats;
#   the counts of single events are gone in both.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -qq litellm==1.110.2
cd "$work"
LITELLM_LOCAL_MODEL_COST_MAP=True venv/bin/python - <<'END' || { echo 'no longer as seen before'; exit 3; }
import json, threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Server(BaseHTTPRequestHandler):
    """Streams as vLLM does with return_token_ids and continuous_usage_stats."""
    def do_POST(self):
        chat = "messages" in json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200), self.send_header("Content-Type", "text/event-stream"), self.end_headers()
        for count, (text, end, more) in enumerate((("One", None, {"prompt_token_ids": [7, 8]}), (" two", None, {}), (".\n\n", "stop", {"stop_reason": "\n\n"})), 1):
            choice = {"index": 0, "finish_reason": end, "token_ids": [count], **more} | ({"delta": {"content": text}} if chat else {"text": text})
            usage = {"prompt_tokens": 2, "completion_tokens": count, "total_tokens": 2 + count}
            event = {"id": "1", "object": "x", "created": 1, "model": "m", "choices": [choice], "usage": usage}
            self.wfile.write(b"data: " + json.dumps(event).encode() + b"\n\n")
        self.wfile.write(b"data: [DONE]\n\n")
    def log_message(self, *_): pass

server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
threading.Thread(target=server.serve_forever, daemon=True).start()
import litellm
common = dict(api_base=f"http://127.0.0.1:{server.server_port}/v1", api_key="none", stream=True, max_tokens=8)
streams = {
    "completions": litellm.text_completion(model="text-completion-openai/m", prompt="Count.", **common),
    "chat": litellm.completion(model="hosted_vllm/m", messages=[{"role": "user", "content": "Count."}], **common),
}
for name, stream in streams.items():
    events = [event.model_dump(exclude_none=True) for event in stream]
    first, *_, before, last = [event["choices"][0] for event in events]
    print(f"{name}: {len(events)} events for 3; the last two {before} {last}")
    text = before["text"] if name == "completions" else before["delta"]["content"]
    assert len(events) == 4 and text == ".\n\n" and before["stop_reason"] == "\n\n" and "finish_reason" not in before
    assert last["finish_reason"] == "stop" and "text" not in last and not last.get("delta")
    assert ("prompt_token_ids" in first) == (name == "chat")
    assert not any("usage" in event for event in events)
print("as seen before")
END

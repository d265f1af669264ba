#!/usr/bin/env bash
# LiteLLM sends a chat to a text-completion route as one prompt for each message, and gives as many choices back
# Versions: litellm==1.110.2
# Expected: text-completion-openai/MODEL renders the messages into one prompt, as a chat is one question.
# Seen: the server is sent a list of three prompts ("Be brief.", "One and one?", "It is"), and the chat has three
#   choices, each the continuation of one message alone. No error, no warning.
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
    """Stands for any server of completions: a choice for each prompt."""
    asked = []
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append((self.path, body))
        prompts = body["prompt"] if isinstance(body["prompt"], list) else [body["prompt"]]
        choices = [{"index": i, "text": f" after {p}", "finish_reason": "stop"} for i, p in enumerate(prompts)]
        usage = {"prompt_tokens": 9, "completion_tokens": 9, "total_tokens": 18}
        data = json.dumps({"id": "1", "object": "text_completion", "created": 1, "model": "m", "choices": choices, "usage": usage}).encode()
        self.send_response(200), self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data))), self.end_headers(), self.wfile.write(data)
    def log_message(self, *_): pass

server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
threading.Thread(target=server.serve_forever, daemon=True).start()
import litellm
chat = [("system", "Be brief."), ("user", "One and one?"), ("assistant", "It is")]
answer = litellm.completion(
    model="text-completion-openai/m", api_base=f"http://127.0.0.1:{server.server_port}/v1", api_key="none", max_tokens=8,
    messages=[{"role": role, "content": content} for role, content in chat])
print("sent:", Server.asked[0][0], Server.asked[0][1]["prompt"])
print("came:", [choice.message.content for choice in answer.choices])
assert Server.asked[0][1]["prompt"] == [content for _, content in chat]
assert [choice.message.content for choice in answer.choices] == [f" after {content}" for _, content in chat]
print("as seen before")
END

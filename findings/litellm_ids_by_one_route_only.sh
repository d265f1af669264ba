#!/usr/bin/env bash
# LiteLLM takes token ids as a prompt by its route openai/, and refuses them by hosted_vllm/, the route of the server that takes them
# Versions: litellm==1.110.2
# Expected: hosted_vllm/MODEL passes a prompt of ids on, since vLLM's /v1/completions takes ids; openai/ at most does the
#   same.
# Seen: openai/ and text-completion-openai/ send [5, 6, 7] as it is; hosted_vllm/ raises "Unmapped prompt format" before
#   anything is sent, and sends a text as it is.
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
    """Stands for vLLM's /v1/completions, which takes texts and ids."""
    prompts = []
    def do_POST(self):
        self.prompts.append(json.loads(self.rfile.read(int(self.headers["Content-Length"])))["prompt"])
        choice = {"index": 0, "text": " So.", "finish_reason": "stop"}
        usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
        data = json.dumps({"id": "1", "object": "text_completion", "created": 1, "model": "m", "choices": [choice], "usage": usage}).encode()
        self.send_response(200), self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data))), self.end_headers(), self.wfile.write(data)
    def log_message(self, *_): pass

server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
threading.Thread(target=server.serve_forever, daemon=True).start()
import litellm

def ask(route, prompt):
    """What the server is sent, or what is raised in its place."""
    before = len(Server.prompts)
    try:
        litellm.text_completion(
            model=f"{route}/m", api_base=f"http://127.0.0.1:{server.server_port}/v1", api_key="none", prompt=prompt,
            max_tokens=4, max_retries=0)
    except Exception as error:
        return str(error) if len(Server.prompts) == before else "sent and failed"
    return Server.prompts[-1]

seen = {(route, str(prompt)): ask(route, prompt)
        for route in ("openai", "text-completion-openai", "hosted_vllm") for prompt in ([5, 6, 7], "One")}
for (route, prompt), told in seen.items():
    print(f"{route}, {prompt}: {str(told)[:80]}")
assert seen["openai", "[5, 6, 7]"] == seen["text-completion-openai", "[5, 6, 7]"] == [5, 6, 7]
assert "Unmapped prompt format" in seen["hosted_vllm", "[5, 6, 7]"]
assert seen["hosted_vllm", "One"] == seen["openai", "One"] == "One"
print("as seen before")
END

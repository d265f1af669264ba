"""schemathesis: whatever fits the OpenAPI document of `rsd serve`, and much that does not, is answered in form."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx

CHECKS = (
    *("not_a_server_error", "status_code_conformance", "content_type_conformance", "response_headers_conformance"),
    *("response_schema_conformance", "negative_data_rejection"),
)
EXAMPLES = 40
"""Random requests to each route, beside those that schemathesis derives from the limits of each field."""


def narrowed(document: dict[str, Any]) -> dict[str, Any]:
    """The document with fields that lead on to the models: of the names almost none is one, and answers are short."""
    schemas = document["components"]["schemas"]
    text = {"type": "string", "minLength": 1}
    message = {
        "type": "object",
        "required": ["role", "content"],
        "additionalProperties": False,
        "properties": {"role": {"enum": ["system", "user", "assistant"]}, "content": text},
    }
    for name in ("ChatRequest", "CompletionRequest"):
        fields = schemas[name]["properties"]
        fields["model"] = {"enum": ["rsd", "target"]}
        fields["n"] = {"type": "integer", "minimum": 1, "maximum": 2}
        fields["max_tokens"] = {"type": "integer", "minimum": 1, "maximum": 8}
        schemas[name]["required"].append("max_tokens")
    schemas["ChatRequest"]["properties"]["messages"] |= {"items": message, "maxItems": 3}
    schemas["CompletionRequest"]["properties"]["prompt"]["anyOf"] = [text, {"type": "array", "items": text, "minItems": 1, "maxItems": 2}]
    return document


def test_no_request_is_answered_by_a_server_error_or_out_of_form(served: str, tmp_path: Path) -> None:
    document = tmp_path / "openapi.json"
    document.write_text(json.dumps(narrowed(httpx.get(f"{served}/openapi.json", trust_env=False).json())))
    command = [
        *(sys.executable, "-m", "schemathesis.cli", "run", str(document), "--url", served, "--no-color"),
        *("--checks", ",".join(CHECKS), "--phases", "coverage,fuzzing", "--max-examples", str(EXAMPLES)),
        *("--seed", "1", "--generation-database", "none", "--no-shrink", "--continue-on-failure"),
        *("--request-timeout", "30", "--warnings", "off"),
    ]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    answered = httpx.get(f"{served}/metrics", trust_env=False).text
    print(ran.stdout)
    print("\n".join(l for l in answered.splitlines() if "http_requests_total" in l))
    assert 0

"""schemathesis: whatever fits the OpenAPI document of `rsd serve`, and much that does not, is answered in form."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx

IN_FORM = (
    *("not_a_server_error", "status_code_conformance", "content_type_conformance", "response_headers_conformance"),
    "response_schema_conformance",
)
EXAMPLES = 50
"""Random requests to each route, in addition to those that schemathesis derives from the limits of each field."""


def schemathesis(document: dict[str, Any], url: str, folder: Path, *options: str, checks: tuple[str, ...]) -> None:
    """Run it over a document, in its own process and at random numbers that are always the same."""
    (folder / "openapi.json").write_text(json.dumps(document))
    command = [
        *(sys.executable, "-m", "schemathesis.cli", "run", "openapi.json", "--url", url, "--checks", ",".join(checks)),
        *("--phases", "coverage,fuzzing", "--max-examples", str(EXAMPLES), "--seed", "1", "--continue-on-failure"),
        *("--generation-database", "none", "--no-shrink", "--request-timeout", "30", "--no-color", *options),
    ]
    ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def document_of(url: str) -> Any:
    return httpx.get(f"{url}/openapi.json", trust_env=False).json()


def answered(url: str, status: int) -> float:
    """Requests for answers that had this status so far."""
    told = httpx.get(f"{url}/metrics", trust_env=False).text
    counts = re.findall(rf'rsd_http_requests_total{{route="/v1/\w*/?completions",status="{status}"}} (\S+)', told)
    return sum(map(float, counts))


def test_what_the_document_denies_is_refused_in_form(served: str, tmp_path: Path) -> None:
    before = answered(served, 400)
    schemathesis(document_of(served), served, tmp_path, checks=(*IN_FORM, "negative_data_rejection"))
    assert answered(served, 400) > before + 2 * EXAMPLES


def test_whatever_comes_to_the_models_is_answered_in_form(served: str, tmp_path: Path) -> None:
    document, before = document_of(served), answered(served, 200)
    text = {"type": "string", "minLength": 1}
    schemas = document["components"]["schemas"]
    for schema in schemas.values():  # of random names, roles and policies almost none exists
        fields = schema.get("properties", {})
        if "model" not in fields:
            continue
        fields["model"] = {"enum": ["rsd", "target"]}
        longest = next(name for name in ("max_tokens", "max_output_tokens") if name in fields)
        fields[longest] = {"type": "integer", "minimum": 1, "maximum": 8}
        schema["required"].append(longest)
        if "n" in fields:
            fields["n"]["anyOf"][0]["maximum"] = 2
        if "messages" in fields:
            role = {"enum": ["system", "user", "assistant", "developer", "tool"]}
            message = {"type": "object", "required": ["role", "content"], "properties": {"role": role, "content": text}}
            fields["messages"] |= {"items": message, "maxItems": 3}
    policies = {"enum": ["binary_step:0.5", "always_target", {"kind": "first_steps", "n": 1, "then": "always_draft"}]}
    schemas["Own"]["properties"]["policy"] = policies
    schemathesis(document, served, tmp_path, "--mode", "positive", checks=IN_FORM)
    assert answered(served, 200) > before + EXAMPLES

"""Model servers with an OpenAI-compatible API: vLLM, SGLang, llama.cpp, Ollama, `transformers serve`, hosted ones."""

from rsd_integrations.findings import Finding
from rsd_integrations.openai_compatible.endpoint import Endpoint
from rsd_integrations.openai_compatible.errors import EndpointError, Refused
from rsd_integrations.openai_compatible.generator import OpenAIGenerator
from rsd_integrations.openai_compatible.loading import load_generator, open_endpoint
from rsd_integrations.openai_compatible.profile import Profile
from rsd_integrations.openai_compatible.profiles import PROFILES

__all__ = [
    "PROFILES",
    "Endpoint",
    "EndpointError",
    "Finding",
    "OpenAIGenerator",
    "Profile",
    "Refused",
    "load_generator",
    "open_endpoint",
]

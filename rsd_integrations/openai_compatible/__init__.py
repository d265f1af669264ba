"""Model servers with the OpenAI API: vLLM, SGLang, llama.cpp, Ollama, `transformers serve`, hosted ones."""

from rsd_integrations.openai_compatible.endpoint import Endpoint, Reader
from rsd_integrations.openai_compatible.faults import EndpointError, Refused

__all__ = ["Endpoint", "EndpointError", "Reader", "Refused"]

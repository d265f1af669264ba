"""In-process GGUF models, through llama.cpp's C library and without torch."""

from rsd_integrations.llamacpp.generator import LlamaCppGenerator, LlamaCppLikelihood, load_generator, load_likelihood
from rsd_integrations.llamacpp.reward_models import LlamaCppVerifier, load_verifier

__all__ = [
    "LlamaCppGenerator",
    "LlamaCppLikelihood",
    "LlamaCppVerifier",
    "load_generator",
    "load_likelihood",
    "load_verifier",
]

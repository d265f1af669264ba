"""GGUF models in process, through llama.cpp's C library and without torch."""

from rsd_integrations.llamacpp.generator import LlamaCppGenerator, LlamaCppLikelihood, load_generator, load_likelihood

__all__ = ["LlamaCppGenerator", "LlamaCppLikelihood", "load_generator", "load_likelihood"]

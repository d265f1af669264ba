"""In-process models of the transformers library: drafters, targets, process reward models, likelihood verifiers."""

from rsd_integrations.huggingface.generator import HuggingFaceGenerator, load_generator
from rsd_integrations.huggingface.likelihood import HuggingFaceLikelihood, load_likelihood
from rsd_integrations.huggingface.reward_models import load_verifier
from rsd_integrations.huggingface.shared import SharedVerifier, load_shared
from rsd_integrations.huggingface.verifier import HuggingFaceVerifier

__all__ = [
    "HuggingFaceGenerator",
    "HuggingFaceLikelihood",
    "HuggingFaceVerifier",
    "SharedVerifier",
    "load_generator",
    "load_likelihood",
    "load_shared",
    "load_verifier",
]

"""RSD as a model of EleutherAI's lm-evaluation-harness."""

from rsd_integrations.lm_eval.model import RSDModel

__all__ = ["RSDModel"]

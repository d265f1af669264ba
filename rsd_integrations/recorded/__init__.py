"""Recorded runs: all model calls of a real run in a file, from which the run can be replayed without the models.

Models are wrapped at their interface to the decoder, as drafter, verifier and target, so any backend can be recorded. A
call is identified by its content: the model, its input, and the request. So another policy, threshold or method can be
replayed from the same file, as long as all of its calls were recorded.
"""

from rsd_integrations.recorded.file import RECORDED_RUNS, RunRecord
from rsd_integrations.recorded.recorder import Recorder
from rsd_integrations.recorded.replay import MissingCallError, Replay

__all__ = ["RECORDED_RUNS", "MissingCallError", "Recorder", "Replay", "RunRecord"]

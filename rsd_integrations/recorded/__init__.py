"""Recorded runs: every call of the models of a real run in a file, and the run again without the models.

Models are wrapped where they meet the decoder, as drafter, verifier and target, so any backend can be recorded. A call
is known by its content: the model, what it reads, and what is asked of it. Another policy, threshold or method can
therefore be replayed from the same file, as long as it makes no call that was never recorded.
"""

from rsd_integrations.recorded.file import RECORDED_RUNS, RunRecord
from rsd_integrations.recorded.recorder import Recorder
from rsd_integrations.recorded.replay import MissingCallError, Replay

__all__ = ["RECORDED_RUNS", "MissingCallError", "Recorder", "Replay", "RunRecord"]

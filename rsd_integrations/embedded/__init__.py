"""The embedded family: a drafter, a target and verifiers that ship with the package, and the task they know.

Everything runs offline on a CPU. The checkpoints are standard Qwen2 ones and go through
`rsd_integrations.huggingface` like any other model. See MODEL_CARD.md next to this file.
"""

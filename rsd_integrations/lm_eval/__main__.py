"""The harness's own command with the model `rsd`: `python -m rsd_integrations.lm_eval run --model rsd …`."""

from lm_eval.__main__ import cli_evaluate

import rsd_integrations.lm_eval  # noqa: F401 - registers the model

if __name__ == "__main__":
    cli_evaluate()

"""A task of the tests' own for lm-evaluation-harness: word problems of the embedded models, in a file."""

import json
from collections.abc import Sequence
from pathlib import Path

from lm_eval.tasks import TaskManager

from rsd_integrations.embedded.task import Problem

_TASK = """
task: counting
dataset_path: json
dataset_kwargs:
  data_files: {{test: {file}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
generation_kwargs: {{until: ["Problem:"], max_gen_toks: 300, do_sample: false}}
filter_list:
  - name: boxed
    filter:
      - {{function: regex, regex_pattern: 'boxed{{(\\d+)}}'}}
      - {{function: take_first}}
metric_list:
  - {{metric: exact_match, aggregation: mean, higher_is_better: true}}
"""


def counting(folder: Path, drawn: Sequence[Problem]) -> TaskManager:
    """Knows the task `counting` of these problems, which is written into the folder."""
    data = folder / "data.jsonl"
    data.write_text("".join(json.dumps({"question": p.question, "answer": str(p.answer)}) + "\n" for p in drawn))
    (folder / "counting.yaml").write_text(_TASK.format(file=data))
    return TaskManager(include_path=str(folder), include_defaults=False)

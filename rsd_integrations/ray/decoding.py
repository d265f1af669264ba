"""A stage of Ray Data that decodes the prompts of a dataset."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa
from ray.data import ActorPoolStrategy, Dataset

from rsd_core import ConfigurationError, RSDConfig, RunError
from rsd_core.blocking import wait_for
from rsd_core.concurrency import run_all
from rsd_core.queueing import Slots, side_by_side
from rsd_integrations.ray.actors import Actors
from rsd_integrations.ray.cluster import nodes
from rsd_integrations.ray.rows import Outcome, check_columns, with_outcomes

ROWS = 16
"""Rows of a task. They are what is computed anew where an actor dies, and what arrives together."""


class DecodeRows:
    """A decoder as Ray Data's `map_batches` takes it, with `batch_format="pyarrow"`; `decode` is the shorter way.

    Each actor builds its own from the configuration. The batches that it is given at once share its places.

    Args:
        config: As data: `RSDConfig(…).model_dump(mode="json")`.
        prompt_column: Holds a text, or a list of messages with `role` and `content`.
        repeat_column: Holds the repeat number of each row, see `decode`.
        prefix: Before the names of new columns.
        concurrency: Requests in flight at once.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        prompt_column: str = "prompt",
        repeat_column: str | None = None,
        prefix: str = "",
        concurrency: int = 64,
    ) -> None:
        self._prompt, self._repeat, self._prefix = prompt_column, repeat_column, prefix
        self._decoder = RSDConfig.parse(dict(config)).build()
        self._concurrency, self._slots = concurrency, Slots(concurrency)

    def __call__(self, table: pa.Table) -> pa.Table:
        """The rows in their order, with what became of each.

        Raises:
            ConfigurationError: A new column has the name of one that is there.
        """
        check_columns(table.column_names, self._prefix)
        return with_outcomes(table, wait_for(self._outcomes(table.to_pylist())), self._prefix)

    async def _outcomes(self, rows: list[dict[str, Any]]) -> list[Outcome]:
        with side_by_side(self._concurrency):
            return await run_all([self._outcome(row) for row in rows])

    async def _outcome(self, row: Mapping[str, Any]) -> Outcome:
        try:
            prompt, repeat = row.get(self._prompt), 0 if self._repeat is None else row.get(self._repeat)
            if prompt is None:
                raise ConfigurationError(f"the row has no {self._prompt!r}")
            if not isinstance(repeat, int) or repeat < 0:
                raise ConfigurationError(f"{self._repeat!r} takes a whole number from 0 (got {repeat!r})")
            async with self._slots:
                return Outcome(await self._decoder.arun(prompt, repeat=repeat))
        except (RunError, ConfigurationError) as error:
            return Outcome(error.partial if isinstance(error, RunError) else None, str(error))


def decode(
    dataset: Dataset,
    config: RSDConfig,
    *,
    prompt_column: str = "prompt",
    repeat_column: str | None = None,
    prefix: str = "",
    actors: Actors | None = None,
    rows: int = ROWS,
    keep_order: bool = False,
) -> Dataset:
    """Decode every prompt of a dataset, when the dataset is read.

    The new columns are text, thought, answer, finish_reason, ledger, degradations and error. A row that cannot be asked
    or that failed has its error there and does no harm to others. A prompt's result is what one process gives it, for
    the same seed and repeat number, whichever block it is in; only policies that learn as they go learn in each actor
    apart.

    Args:
        dataset: What holds the prompts; its columns stay.
        config: Models, policy, settings. It travels as data: each actor builds its own decoder from it.
        prompt_column: Holds texts, or lists of messages with `role` and `content`.
        repeat_column: Holds whole numbers from 0 that tell samples of equal prompts apart, as `repeat=` of a decoder.
            Without one, equal prompts get equal results.
        prefix: Before the names of new columns, where the dataset has some of the same names.
        actors: How many decoders, and what each takes; by default as the configuration needs.
        rows: Rows of a task, at least 1: they are computed anew where an actor dies, and they arrive together.
        keep_order: Whether rows come out in the order in which they went in. It is an option of the dataset as a
            whole, and holds for its other stages as well.

    Raises:
        ConfigurationError: The dataset lacks the columns, or has some of the new ones' names, as far as that is known
            before it is read.
    """
    if rows < 1:
        raise ConfigurationError(f"rows takes a whole number from 1 (got {rows})")
    schema = dataset.schema(fetch_if_missing=False)
    if schema is not None:
        check_columns(schema.names, prefix)
        for column in filter(None, (prompt_column, repeat_column)):
            if column not in schema.names:
                raise ConfigurationError(f"the dataset has no column {column!r}; it has {', '.join(schema.names)}")
    own = (actors or Actors()).fitted(config, nodes(), spare_cpus=1)  # which reads and splits the dataset
    if keep_order:
        dataset.context.execution_options.preserve_order = True
    at_once = max(2, -(-2 * own.concurrency // rows))  # while the last rows of a task are awaited, others are begun
    pool = ActorPoolStrategy(
        min_size=own.count,
        max_size=own.max_count or own.count,
        max_concurrent_calls_per_actor=at_once,
        enable_true_multi_threading=True,
    )
    return dataset.repartition(target_num_rows_per_block=rows).map_batches(
        DecodeRows,
        batch_size=rows,
        batch_format="pyarrow",
        compute=pool,
        fn_constructor_args=(config.model_dump(mode="json"), prompt_column, repeat_column, prefix, own.concurrency),
        udf_modifying_row_count=False,
        **own.options,
    )

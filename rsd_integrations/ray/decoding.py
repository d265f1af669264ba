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
"""Rows per task: the unit that is recomputed if an actor dies, and that arrives together."""


class DecodeRows:
    """A decoder for Ray Data's `map_batches`, with `batch_format="pyarrow"`; `decode` is a shortcut.

    Each actor builds its own from the configuration. Its concurrent batches share its concurrency.

    Args:
        config: The configuration as data: `RSDConfig(…).model_dump(mode="json")`.
        prompt_column: Column with a text, or a list of messages with `role` and `content`.
        repeat_column: Column with the repeat number of each row (see `decode`).
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
        """The rows in order, each with its outcome.

        Raises:
            ConfigurationError: A new column has the name of an existing one.
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
                raise ConfigurationError(f"{self._repeat!r} must be an integer of at least 0 (got {repeat!r})")
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
    """Decode every prompt of a dataset, lazily.

    The new columns are text, thought, answer, finish_reason, ledger, degradations and error. An invalid or failed row
    has its error there and does not affect others. A prompt's result is the same as in a single process, for the same
    seed and repeat number, whichever block it is in; only policies that learn online do so separately in each actor.

    Args:
        dataset: The dataset with the prompts; its columns are kept.
        config: Models, policy, settings. It is sent as data: each actor builds its own decoder from it.
        prompt_column: Column with texts, or lists of messages with `role` and `content`.
        repeat_column: Column with integers from 0 that distinguish samples of equal prompts, like a decoder's
            `repeat=`. Without one, equal prompts get equal results.
        prefix: Prefix of the new columns' names, in case the dataset already has such names.
        actors: The number of decoders, and the resources of each; by default what the configuration needs.
        rows: Rows per task, at least 1: they are recomputed if an actor dies, and arrive together.
        keep_order: Whether to preserve the order of rows. This option of the whole dataset applies to its other stages
            as well.

    Raises:
        ConfigurationError: The dataset lacks the columns, or already has some of the new names, as far as its schema is
            known in advance.
    """
    if rows < 1:
        raise ConfigurationError(f"rows must be an integer of at least 1 (got {rows})")
    schema = dataset.schema(fetch_if_missing=False)
    if schema is not None:
        check_columns(schema.names, prefix)
        for column in filter(None, (prompt_column, repeat_column)):
            if column not in schema.names:
                raise ConfigurationError(f"the dataset has no column {column!r}; it has {', '.join(schema.names)}")
    own = (actors or Actors()).fitted(config, nodes(), spare_cpus=1)  # for reading and splitting the dataset
    if keep_order:
        dataset.context.execution_options.preserve_order = True
    at_once = max(2, -(-2 * own.concurrency // rows))  # begin other tasks while awaiting the last rows of one
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

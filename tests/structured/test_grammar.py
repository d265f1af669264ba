"""JSON by a schema in process: whatever is sampled, the answer is valid, and no other answer changes."""

import asyncio
import gc
import json
import random
import weakref
from collections.abc import Sequence
from pathlib import Path as Folder
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rsd_core import ConfigurationError, Path, Sampling, Step, StepRequest, as_prompt, load
from rsd_core.concurrency import run_all
from rsd_integrations.embedded.models import FOLDER
from rsd_integrations.huggingface import to_gguf
from rsd_integrations.inprocess.generator import Generator
from rsd_integrations.inprocess.grammar import LARGEST, grammar_of, tightened
from tests.serve.running import wait_until
from tests.structured.schemas import ALL_SCHEMAS, SCHEMAS, Schema

QUESTION = as_prompt("Mia has 45 apples. Then she buys 12 more. How many apples does Mia have now?")
PERSON: Schema = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
    },
    "required": ["name", "age"],
}


@pytest.fixture(scope="module", params=["transformers", "llama.cpp"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Generator:
    spec = "embedded:thinking-draft"
    if request.param == "llama.cpp":
        file = to_gguf.export(str(FOLDER / "thinking-draft"), tmp_path_factory.mktemp("gguf") / "thinker.gguf")
        spec = f"gguf:{file}"
    made: Generator = load(spec)
    return made


def by_schema(model: Generator, schema: Schema) -> Generator:
    return model.with_fields(
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}}
    )


def write(model: Generator, seeds: Sequence[int] = (0,), temperature: float = 1.0, tokens: int = 300) -> Sequence[Step]:
    request = StepRequest(tuple(seeds), tokens, delimiter=None, sampling=Sampling(temperature))
    return asyncio.run(model.generate(Path(QUESTION), request)).steps


def valid(text: str, schema: Schema) -> bool:
    checker = jsonschema.Draft202012Validator.FORMAT_CHECKER
    return bool(jsonschema.Draft202012Validator(schema, format_checker=checker).is_valid(json.loads(text)))


@settings(max_examples=40, deadline=None)
@given(schema=ALL_SCHEMAS, seed=st.integers(0, 2**31))
def test_whatever_is_sampled_fits_the_schema(model: Generator, schema: Schema, seed: int) -> None:
    try:
        writer = by_schema(model, schema)
    except ConfigurationError as refused:
        told = str(refused)
    else:
        told = ""
    if told:
        assert "cannot write JSON by this schema: " in told
        return
    for step in write(writer, (seed, seed + 1)):
        assert step.ending == "length" or valid(step.text, schema)


@settings(max_examples=60, deadline=None)
@given(schema=SCHEMAS, seed=st.integers(0, 2**31))
def test_every_token_that_is_let_through_leads_to_a_valid_end(schema: Schema, seed: int) -> None:
    """Without a model: uniformly among what the grammar allows, and towards the end where that is long."""
    model, chance = load("embedded:draft"), random.Random(seed)
    place = grammar_of(schema, model.vocabulary, model.eos_ids, "it").begin()
    ids: list[int] = []
    while len(ids) < 400:
        allowed = np.flatnonzero(place.allowed(model.vocabulary.size)).tolist()
        token = chance.choice(allowed)
        place.take(token)
        if token in model.eos_ids:
            assert valid(model.vocabulary.text(ids), schema)
            return
        ids.append(token)


def test_the_end_comes_where_the_schema_is_fulfilled_and_only_there(model: Generator) -> None:
    for step in write(by_schema(model, PERSON), range(8)):
        assert step.ending == "end"
        assert step.size == len(step.tokens) + 1
        assert set(json.loads(step.text)) == {"name", "age"}
        assert model.vocabulary.text(list(step.tokens)) == step.text
        assert "<think>" not in step.text
    assert write(by_schema(model, PERSON), tokens=3)[0].ending == "length"


def test_it_is_the_most_likely_token_of_those_allowed(model: Generator) -> None:
    """Greedy, one token after the other, against the model's own distribution cut by the grammar."""
    (step,) = write(by_schema(model, PERSON), temperature=0.0)
    place = grammar_of(PERSON, model.vocabulary, model.eos_ids, "it").begin()
    for at, token in enumerate(step.tokens):
        before = Path(QUESTION)
        if at:
            text = model.vocabulary.text(list(step.tokens[:at]))
            before = before.extend(Step(text, "delimiter", step.tokens[:at], model.vocabulary.identity))
        allowed = np.flatnonzero(place.allowed(model.vocabulary.size)).tolist()
        if at % 5 == 0 and len(allowed) > 1:
            candidates = [Step("?", "delimiter", (id_,), model.vocabulary.identity) for id_ in allowed]
            values = asyncio.run(model.log_likelihoods(before, candidates)).values
            assert values[allowed.index(token)] == pytest.approx(max(values), abs=0.05)
        place.take(token)


def test_other_rows_of_the_batch_are_as_they_were(model: Generator) -> None:
    writer = by_schema(model, PERSON)
    plain = StepRequest((1, 2, 3), 48, delimiter=None, sampling=Sampling(1.0))
    asked = StepRequest((4, 5), 200, delimiter=None, sampling=Sampling(1.0))

    async def together() -> list[Any]:
        return await run_all(
            [
                one.generate(Path(QUESTION), request)
                for one, request in ((model, plain), (writer, asked), (model, plain))
            ]
        )

    first, second, third = asyncio.run(together())
    assert first.steps == third.steps
    assert first.steps == asyncio.run(model.generate(Path(QUESTION), plain)).steps
    assert second.steps == asyncio.run(writer.generate(Path(QUESTION), asked)).steps
    assert second.steps[:1] == tuple(write(writer, (4,), tokens=200))


def test_equal_schemas_are_one_model_and_text_is_none(model: Generator) -> None:
    assert by_schema(model, PERSON) is by_schema(model, dict(PERSON))
    backwards = {**PERSON, "properties": dict(reversed(PERSON["properties"].items()))}
    for schema in (PERSON, backwards):  # properties are written in the order of the schema
        assert list(json.loads(write(by_schema(model, schema))[0].text)) == list(schema["properties"])
    assert by_schema(model, PERSON).runner is model.runner
    free = by_schema(model, PERSON).with_fields({"response_format": {"type": "text"}})
    assert write(free)[0].text == write(model)[0].text
    objects = write(model.with_fields({"response_format": {"type": "json_object"}}), range(6))
    assert all(step.text.startswith("{") for step in objects)
    assert all(isinstance(json.loads(step.text), dict) for step in objects if step.ending == "end")


@pytest.mark.parametrize(
    ("schema", "told"),
    [
        ({"type": "object", "properties": {"a": {"not": {}}}}, r'Unimplemented keys: \["not"\]'),
        ({"type": "array", "uniqueItems": True}, r'Unimplemented keys: \["uniqueItems"\]'),
        ({"type": "string", "minLength": 5, "maxLength": 2}, "Unsatisfiable schema"),
        ({"type": "nonsense"}, "Invalid type: nonsense"),
    ],
)
def test_what_cannot_be_enforced_is_refused_before_anything_is_written(schema: Schema, told: str) -> None:
    with pytest.raises(ConfigurationError, match=f"embedded:draft cannot write JSON by this schema: {told}"):
        by_schema(load("embedded:draft"), schema)


def test_a_model_is_freed_whatever_it_wrote(tmp_path: Folder) -> None:
    file = to_gguf.export(str(FOLDER / "draft"), tmp_path / "draft.gguf")
    model: Generator = load(f"gguf:{file}")
    write(by_schema(model, PERSON))
    runner = weakref.ref(model.runner)
    del model

    def freed() -> bool:  # the engine's thread may still be leaving its last pass
        gc.collect()
        return runner() is None

    wait_until(freed)


def test_invalid_forms_are_refused(model: Generator) -> None:
    for form in ({"type": "json"}, {"type": "json_schema"}, {"type": "json_schema", "json_schema": {"schema": []}}, {}):
        with pytest.raises(ConfigurationError, match="response_format takes"):
            model.with_fields({"response_format": form})
    with pytest.raises(ConfigurationError, match="generated in one piece: use granularity='turn'"):
        asyncio.run(by_schema(model, PERSON).generate(Path(QUESTION), StepRequest((0,))))


def test_a_vocabulary_that_cannot_say_it_fails_that_call_alone() -> None:
    model = load("embedded:draft")
    place = grammar_of({"const": "x"}, model.vocabulary, model.eos_ids, "it").begin()
    assert place.allowed(1).all()  # of a model with one token, which is none of those
    with pytest.raises(RuntimeError, match="writing JSON by its schema failed: no token of the vocabulary"):
        place.take(0)


def test_objects_are_closed_where_nothing_else_is_said_of_them() -> None:
    open_ = {"type": "object", "properties": {"a": {"type": "boolean"}}}
    shut = {**open_, "additionalProperties": False}
    assert tightened(open_) == shut
    assert tightened({"type": "array", "items": open_}) == {"type": "array", "items": shut}
    inside = {"type": "object", "properties": {"in": open_}, "additionalProperties": False}
    assert tightened(inside) == {**inside, "properties": {"in": shut}}
    for kept in (
        {**open_, "required": ["b"]},
        {**open_, "additionalProperties": {"type": "string"}},
        {**open_, "anyOf": [{"required": ["b"]}]},
        {"allOf": [open_, {"properties": {"b": {}}}]},
        {"const": open_},
    ):
        assert tightened(kept) == kept


def test_whole_numbers_are_those_that_all_programs_read(model: Generator) -> None:
    for schema in (
        {"type": "integer"},
        {"type": "integer", "minimum": -5},
        {"type": "integer", "exclusiveMaximum": 10**30},
    ):
        numbers = [
            int(step.text) for step in write(by_schema(model, schema), range(4), tokens=40) if step.ending == "end"
        ]
        assert len(numbers) == 4
        assert all(abs(number) <= LARGEST and valid(str(number), schema) for number in numbers)
    for kept in ({"type": "integer", "minimum": 2**60}, {"type": "integer", "enum": [2**70]}):
        assert tightened(kept) == kept

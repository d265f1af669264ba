"""`with_structured_output`: in steps schema-conforming JSON after the reasoning, in turns each inner model's own."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator, Mapping
from operator import itemgetter
from typing import Any, cast

from langchain_core.exceptions import OutputParserException
from langchain_core.language_models import LanguageModelInput
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.output_parsers.transform import BaseTransformOutputParser
from langchain_core.outputs import ChatGeneration, Generation
from langchain_core.runnables import Runnable, RunnableMap, RunnablePassthrough
from langchain_core.utils.function_calling import convert_to_json_schema
from langchain_core.utils.json import parse_json_markdown, parse_partial_json
from langchain_core.utils.pydantic import is_basemodel_subclass

from rsd_core import ConfigurationError
from rsd_core.registry import parse_spec
from rsd_integrations.chat_fields import TakesFields
from rsd_integrations.langchain.compositions import rebuilt
from rsd_integrations.langchain.fields import RSDFields

IN_PROCESS = frozenset({"embedded", "hf", "gguf"})
"""Kinds of specs whose models are known to support JSON schemas, without loading them."""


def writes_json(model: Any) -> bool:
    """Whether a model, or the one for a spec, is known to support JSON schemas."""
    if isinstance(model, str):
        return parse_spec(model)[0].kind in IN_PROCESS
    return isinstance(model, TakesFields) and model.writes_json


def structured(
    model: RSDFields, schema: Any, *, method: str | None, include_raw: bool, strict: bool | None, **kwargs: Any
) -> Runnable[LanguageModelInput, Any]:
    """A model whose answers are objects of a schema; arguments as for `BaseChatModel.with_structured_output`.

    Raises:
        ValueError: An argument is only for inner models, or a required schema is missing.
    """
    told = {name: value for name, value in {"method": method, "strict": strict}.items() if value is not None}
    if model.resolved().granularity == "turn" and model.all_inner():
        llm: Runnable[Any, Any] = _of_inner(model, schema, {**told, **kwargs})
        bound: dict[str, Any] = {}
    else:
        if kwargs:
            raise ValueError(f"with_structured_output accepts {sorted(kwargs)} only for LangChain models in turns")
        if method not in (None, "json_schema", "function_calling", "json_mode"):
            raise ValueError(f"method={method!r} is not one of json_schema, function_calling, json_mode")
        llm, bound = cast("Runnable[Any, Any]", model), {"response_format": _response_format(schema, method)}
    shown = {} if schema is None else {"ls_structured_output_format": {"kwargs": told, "schema": schema}}
    llm = llm.bind(**bound, **shown)
    parser = SchemaParser(wanted=schema)
    if not include_raw:
        return llm | parser
    parsed = RunnablePassthrough.assign(parsed=itemgetter("raw") | parser, parsing_error=lambda _: None)
    unparsed = RunnablePassthrough.assign(parsed=lambda _: None)
    return RunnableMap(raw=llm) | parsed.with_fallbacks([unparsed], exception_key="parsing_error")


def _response_format(schema: Any, method: str | None) -> dict[str, Any]:
    if schema is None and method == "json_mode":
        return {"type": "json_object"}
    if schema is None:
        raise ValueError(
            "with_structured_output needs a schema: a class, a TypedDict or a JSON Schema; only json_mode works without"
        )
    # LangChain keeps only the properties of a schema given as data: arrays, enums and references would be lost.
    whole = isinstance(schema, Mapping) and not _NAMED & schema.keys()
    made = dict(schema) if whole else convert_to_json_schema(schema)
    name = made.get("title")
    return {"type": "json_schema", "json_schema": {"name": name if isinstance(name, str) else "answer", "schema": made}}


_NAMED = frozenset({"name", "function", "toolSpec"})
"""Keys of tool definitions, in any provider's format, that no JSON Schema has."""


def _of_inner(model: RSDFields, schema: Any, options: Mapping[str, Any]) -> Runnable[Any, Any]:
    """A copy in which each LangChain model uses its own class's structured output."""

    def asked(role: Any) -> Any:
        return role.using(model=_asked(role.model, role.name, schema, options))

    changes: dict[str, Any] = {name: asked(getattr(model, name)) for name in ("draft", "target")}
    return cast("Runnable[Any, Any]", model.model_copy(update=changes))


def _asked(model: Any, name: str, schema: Any, options: Mapping[str, Any]) -> Any:
    """The wrappers of a model, around it with the call arguments of its own `with_structured_output`."""

    def raw(inner: Any) -> Any:
        try:
            chain = inner.with_structured_output(schema, include_raw=True, **options)
            return chain.first.steps__["raw"]  # before the parser
        except (NotImplementedError, AttributeError, KeyError) as error:
            raise ConfigurationError(f"{name} ({type(inner).__name__}) has no structured output: {error}") from error

    return rebuilt(model, raw)


class SchemaParser(BaseTransformOutputParser[Any]):
    """Converts a message, by its JSON or its first tool call, to an object of a schema.

    When streaming, it yields partial dictionaries; an object of a class comes at the end.
    """

    wanted: Any = None
    """The schema, or the class."""

    @property
    def OutputType(self) -> Any:  # noqa: N802 - LangChain's word
        return Any if self._class is None else self._class

    @property
    def _class(self) -> Any:
        return self.wanted if isinstance(self.wanted, type) and is_basemodel_subclass(self.wanted) else None

    def parse(self, text: str) -> Any:
        """Parse only a message's text."""
        return self.parse_result([ChatGeneration(message=AIMessage(text))])

    def parse_result(self, result: list[Generation], *, partial: bool = False) -> Any:
        """The object.

        Raises:
            OutputParserException: It is not JSON, or does not fit the class.
        """
        (generation, *_) = result
        message = generation.message if isinstance(generation, ChatGeneration) else AIMessage(generation.text)
        assert isinstance(message, AIMessage)
        if refusal := message.additional_kwargs.get("refusal"):
            raise OutputParserException(f"the model refuses: {refusal}", llm_output=str(refusal))
        text = str(message.text)
        if partial:
            if self._class is not None:
                return None
            calls = getattr(message, "tool_call_chunks", ())
            if calls:
                text = calls[0]["args"] or ""
            return parse_partial_json(text) if text else None
        if message.tool_calls:
            data: Any = message.tool_calls[0]["args"]
        else:
            try:
                data = parse_json_markdown(text, parser=json.loads)
            except (ValueError, RecursionError) as error:
                raise OutputParserException(f"the answer is not JSON: {error}: {text:.200}", llm_output=text) from error
        if self._class is None:
            return data
        try:
            return self._class.model_validate(data) if hasattr(self._class, "model_validate") else self._class(**data)
        except (ValueError, TypeError) as error:
            name = self._class.__name__
            raise OutputParserException(f"the answer is not a {name}: {error}: {data}", llm_output=text) from error

    def _transform(self, input: Iterator[str | BaseMessage]) -> Iterator[Any]:
        growing = _Growing(self)
        for part in input:
            yield from growing.add(part)
        yield from growing.end()

    async def _atransform(self, input: AsyncIterator[str | BaseMessage]) -> AsyncIterator[Any]:
        growing = _Growing(self)
        async for part in input:
            for parsed in growing.add(part):
                yield parsed
        for parsed in growing.end():
            yield parsed


class _Growing:
    """A streamed message, and what was yielded of it."""

    def __init__(self, parser: SchemaParser) -> None:
        self._parser = parser
        self._message: Any = None
        self._given: Any = None

    def add(self, part: str | BaseMessage) -> Iterator[Any]:
        more: Any = AIMessageChunk(content=part) if isinstance(part, str) else part
        self._message = more if self._message is None else self._message + more
        try:
            parsed = self._parser.parse_result([ChatGeneration(message=self._message)], partial=True)
        except ValueError:  # incomplete
            return
        if parsed is not None and parsed != self._given:
            self._given = parsed
            yield parsed

    def end(self) -> Iterator[Any]:
        if self._message is None:
            return
        parsed = self._parser.parse_result([ChatGeneration(message=self._message)])
        if self._given is None or parsed != self._given:
            yield parsed

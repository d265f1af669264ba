"""JSON by a schema: the tokens that a model may generate next. The grammars are llguidance's."""

from __future__ import annotations

import json
import weakref
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from rsd_core import ConfigurationError, MissingDependency
from rsd_integrations.inprocess.vocabulary import Vocabulary

if TYPE_CHECKING:
    import numpy as np
    from llguidance import LLMatcher, LLTokenizer
    from numpy.typing import NDArray

    from rsd_integrations.inprocess.chat_template import Tokenizer

AS_DUMPED = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""White space as in `json.dumps`: if any were allowed, small models would generate it without end."""
_APPLICATORS = frozenset(
    {"$ref", "$dynamicRef", "allOf", "anyOf", "oneOf", "not", "if", "patternProperties", "dependentSchemas"}
)
"""Keywords besides `properties` that may constrain the same object and require other properties."""
_OPEN = frozenset({"additionalProperties", "unevaluatedProperties"})
_DATA = frozenset({"const", "enum", "default", "examples"})
_VALUES = frozenset({"const", "enum", "$ref"})
_LEAST, _MOST = frozenset({"minimum", "exclusiveMinimum"}), frozenset({"maximum", "exclusiveMaximum"})
LARGEST = 2**53 - 1
_tokenizers: WeakKeyDictionary[Tokenizer, dict[tuple[int, frozenset[int]], LLTokenizer]] = WeakKeyDictionary()


class Grammar:
    """The text a model may generate. It is compiled once; each row has its own position in it.

    Args:
        matcher: A matcher at the beginning.
    """

    def __init__(self, matcher: LLMatcher) -> None:
        self._matcher = matcher

    def begin(self) -> Place:
        """The beginning, for one row."""
        return Place(self._matcher.deep_copy())


class Place:
    """A row's position in its grammar."""

    def __init__(self, matcher: LLMatcher) -> None:
        self._matcher = matcher
        self._fault = ""

    def allowed(self, size: int) -> NDArray[np.bool_]:
        """Which of `size` ids may come next; ids that end the answer only if the grammar allows its end here."""
        import numpy as np

        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        mask = np.zeros(size, np.bool_)
        known = np.unpackbits(bits, bitorder="little")[:size]
        mask[: len(known)] = known
        if self._matcher.is_error() or not mask.any():
            self._fault = self._matcher.get_error() or "no token of the vocabulary can follow here"
            mask[:] = True  # some token must be chosen, and is refused by `take`
        return mask

    def after(self, token: int) -> Place | None:
        """The position after a token; None if it is not allowed."""
        place = Place(self._matcher.deep_copy())
        return place if not self._fault and place._matcher.consume_token(token) else None

    def take(self, token: int) -> None:
        """Continue with a token.

        Raises:
            RuntimeError: The grammar reached a dead end, or exceeded its library's limits.
        """
        if self._fault or not self._matcher.consume_token(token):
            fault = self._fault or self._matcher.get_error().partition("\n")[0] or f"token {token} is not allowed here"
            raise RuntimeError(f"writing JSON by its schema failed: {fault}")


def grammar_of(schema: Mapping[str, Any], vocabulary: Vocabulary, eos_ids: frozenset[int], name: str) -> Grammar:
    """The grammar of the JSON described by a schema, in the tokens of a vocabulary.

    Args:
        schema: A JSON Schema. Objects that it describes only by `properties` get no other properties.
        vocabulary: The model's vocabulary.
        eos_ids: Ids that end an answer.
        name: The model's name, for errors.

    Raises:
        ConfigurationError: A keyword of the schema cannot be enforced, nothing matches it, or no token ends an answer.
        MissingDependency: llguidance is not installed.
    """
    try:
        from llguidance import LLMatcher
    except ModuleNotFoundError as error:
        raise MissingDependency("llguidance", "huggingface", "JSON by a schema") from error
    if not eos_ids:
        raise ConfigurationError(f"{name} cannot write JSON by a schema: no token ends its answers")
    text = json.dumps(tightened(schema))
    matcher = LLMatcher(
        _tokenizer(vocabulary, eos_ids),
        LLMatcher.grammar_from_json_schema(text, overrides=AS_DUMPED),  # type: ignore[arg-type]
        log_level=0,
    )
    if matcher.is_error():
        raise ConfigurationError(
            f"{name} cannot write JSON by this schema: {matcher.get_error().strip()}. Omit that, and check it "
            f"in the finished answer. The schema: {text:.200}"
        )
    return Grammar(matcher)


def tightened(schema: Mapping[str, Any]) -> Any:
    """The schema without permissions that are not intended and would let small models generate without end.

    Objects get only the named properties, unless the schema says more about them, and integers are limited to those
    that all programs read in the same way (RFC 8259, section 6). Anything that matches this matches the schema.
    """
    return dict(schema) if "allOf" in _keywords(schema) else _tightened(schema)


def _tightened(node: Any) -> Any:
    if isinstance(node, list):
        return [_tightened(part) for part in node]
    if not isinstance(node, Mapping):
        return node
    named, own = node.get("properties"), dict(node)
    if node.get("type") == "integer" and not node.keys() & _VALUES:
        least, most = (node.keys() & bounds for bounds in (_LEAST, _MOST))
        if not most and all(node[name] < LARGEST for name in least):
            own["maximum"] = LARGEST
        if not least and all(node[name] > -LARGEST for name in most):
            own["minimum"] = -LARGEST
        return own
    if isinstance(named, Mapping):
        if _APPLICATORS & node.keys():
            return own
        own["properties"] = {name: _tightened(part) for name, part in named.items()}
        if not _OPEN & node.keys() and set(node.get("required", ())) <= set(named):
            own["additionalProperties"] = False
        return own
    return {name: part if name in _DATA else _tightened(part) for name, part in own.items()}


def _keywords(node: Any) -> set[str]:
    parts = node.values() if isinstance(node, Mapping) else node if isinstance(node, list) else ()
    return set(node if isinstance(node, Mapping) else ()).union(*map(_keywords, parts))


def _tokenizer(vocabulary: Vocabulary, eos_ids: frozenset[int]) -> LLTokenizer:
    """The vocabulary for llguidance, created once, since that takes a second for large ones."""
    from llguidance import LLTokenizer, TokenizerWrapper

    made, key = _tokenizers.setdefault(vocabulary.tokenizer, {}), (vocabulary.size, eos_ids)
    if key not in made:
        tokens = TokenizerWrapper(_Tokens(vocabulary, min(eos_ids)))
        made[key] = LLTokenizer(tokens, n_vocab=vocabulary.size, eos_token=sorted(eos_ids))
    return made[key]


class _Tokens:
    """A tokenizer with the interface required by `TokenizerWrapper`."""

    bos_token_id = None

    def __init__(self, vocabulary: Vocabulary, eos_id: int) -> None:
        self.eos_token_id = eos_id
        self._tokenizer = weakref.ref(vocabulary.tokenizer)  # weak, since it may hold a model, which must be freed
        added = vocabulary.tokenizer.added_tokens_decoder
        # Tokens besides the merged ones mark the structure of a conversation; as text, they are spelled with the
        # others.
        self.tokens = [b"" if id_ in added else piece for id_, piece in enumerate(vocabulary.all_pieces())]

    def __call__(self, text: str) -> list[int]:
        if not isinstance(text, str):  # probed with bytes
            raise TypeError("a text is required")
        tokenizer = self._tokenizer()
        assert tokenizer is not None
        ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

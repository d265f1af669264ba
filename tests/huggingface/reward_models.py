"""Random reward models in the layouts that published ones have, each with its scores by a plain full computation.

The computations follow the model cards: whole conversations, one pass, scores picked by position. They share nothing
with the code under test but the weights.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2ForSequenceClassification,
    Qwen2ForTokenClassification,
    Qwen2Tokenizer,
)

Fast: Any = PreTrainedTokenizerFast
TokenClassifier: Any = Qwen2ForTokenClassification
SequenceClassifier: Any = Qwen2ForSequenceClassification
LlamaSequenceClassifier: Any = LlamaForSequenceClassification
WIDTH = 64
SPARE_SYSTEM = (
    "You are an expert at solving challenging math problems spanning across various categories and "
    "difficulties such as Algebra, Number Theory, Geometry, Counting and Probability, Precalculus etc. For a "
    "given math problem, your task is to generate a step-by-step reasoning-based solution providing an answer "
    "to the question. Identify the correct concepts, formulas and heuristics that needs to be applied and then "
    "derive the contents of the reasoning steps from the given contexts and accurate calculations from the "
    "previous reasoning steps."
)
SYSTEM = "Please reason step by step, and put your final answer within \\boxed{}."
TEXT = (
    "Mia has 45 apples. On Monday she buys 12 more: 45+12=57. So + or - ?\n\nThe answer is \\boxed{57}. \n\n\n\n"
    "Step 1: a \n\n\n\n\n b + c - d\nYes No user assistant system question correct\n"
)
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA3 = (
    "{{ bos_token }}<|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023<|eot_id|>"
    "{% for message in messages %}<|start_header_id|>{{ message['role'] }}<|end_header_id|>\n\n"
    "{{ message['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
Sequences = list[tuple[list[int], int]]
"""For each step, the ids that are read and the position of its score."""


@lru_cache
def qwen() -> PreTrainedTokenizerBase:
    """Byte-level BPE with Qwen's splitting; <extra_0> is an added token, runs of newlines are single tokens."""
    shell = Qwen2Tokenizer()
    bpe = Tokenizer(models.BPE())
    bpe.normalizer, bpe.pre_tokenizer = shell.backend_tokenizer.normalizer, shell.backend_tokenizer.pre_tokenizer
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<extra_0>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bpe.train_from_iterator(
        [TEXT] * 4,
        trainers.BpeTrainer(vocab_size=420, special_tokens=specials, initial_alphabet=alphabet, show_progress=False),
    )
    model = json.loads(bpe.to_str())["model"]
    made = Qwen2Tokenizer(
        vocab=model["vocab"],
        merges=[tuple(pair) for pair in model["merges"]],  # type: ignore[misc]
        unk_token=None,  # type: ignore[arg-type]
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens=["<extra_0>", "<|im_start|>"],
    )
    made.chat_template = CHATML
    return made


@lru_cache
def llama(text: str = TEXT) -> PreTrainedTokenizerBase:
    """Byte-level BPE with Llama 3's special tokens, beginning of text and chat template; it has learned of a text."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = Qwen2Tokenizer().backend_tokenizer.pre_tokenizer
    bpe.decoder = decoders.ByteLevel()
    specials = ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bpe.train_from_iterator(
        [text] * 4,
        trainers.BpeTrainer(vocab_size=420, special_tokens=specials, initial_alphabet=alphabet, show_progress=False),
    )
    bpe.post_processor = processors.TemplateProcessing(
        single="<|begin_of_text|> $A", special_tokens=[("<|begin_of_text|>", 0)]
    )
    made: PreTrainedTokenizerBase = Fast(tokenizer_object=bpe, bos_token="<|begin_of_text|>", eos_token="<|eot_id|>")
    made.chat_template = LLAMA3
    return made


@lru_cache
def mistral() -> PreTrainedTokenizerBase:
    """A SentencePiece vocabulary: a space before every text, newlines and rare characters as bytes, `ки` one piece."""
    words = ["Step", "apples", "buys"]
    merges = [("к", "и"), ("▁", "+"), ("▁", "-")]
    for word in words:
        merges += [(word[:i], word[i]) for i in range(1, len(word))] + [("▁", word)]
    singles = "▁+-=.:,?\\{}()" + "".join(map(chr, range(48, 58))) + "".join(map(chr, range(65, 91)))
    singles += "".join(map(chr, range(97, 123))) + "ки"
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *singles]
    pieces += ["".join(pair) for pair in merges]
    bpe = Tokenizer(
        models.BPE(
            vocab={piece: i for i, piece in enumerate(dict.fromkeys(pieces))},
            merges=merges,
            unk_token="<unk>",
            byte_fallback=True,
            fuse_unk=True,
        )
    )
    bpe.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    bpe.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    bpe.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    bpe.add_special_tokens([AddedToken(name, special=True) for name in ("<unk>", "<s>", "</s>")])
    made: PreTrainedTokenizerBase = Fast(tokenizer_object=bpe, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    return made


def _options(tokenizer: PreTrainedTokenizerBase, **changes: Any) -> dict[str, Any]:
    return {
        "vocab_size": len(tokenizer) + 3,  # rows that no token has, as real ones
        "hidden_size": WIDTH,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 512,
        "tie_word_embeddings": False,
        "initializer_range": 0.2,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
    } | changes


def save(model: Any, tokenizer: PreTrainedTokenizerBase, folder: Path, shard: str = "5GB") -> Path:
    model.eval().save_pretrained(folder, max_shard_size=shard)
    tokenizer.save_pretrained(folder)
    return folder


def put_on(folder: Path, tensors: dict[str, Tensor], **config: Any) -> Path:
    """Add tensors to a checkpoint, in its last shard, and change its configuration."""
    file = sorted(folder.glob("*.safetensors"))[-1]
    save_file(load_file(file) | tensors, file, metadata={"format": "pt"})
    index = folder / "model.safetensors.index.json"
    if index.exists():
        told = json.loads(index.read_text())
        told["weight_map"] |= dict.fromkeys(tensors, file.name)
        index.write_text(json.dumps(told))
    raw = json.loads((folder / "config.json").read_text()) | config
    (folder / "config.json").write_text(json.dumps({key: value for key, value in raw.items() if value is not ...}))
    return folder


def weights(folder: Path) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for file in folder.glob("*.safetensors"):
        found |= {name: tensor.float() for name, tensor in load_file(file).items()}
    return found


def _qwen_lm(folder: Path, tied: bool = False, shard: str = "5GB", context: int = 512) -> Path:
    options = _options(qwen(), tie_word_embeddings=tied, max_position_embeddings=context)
    return save(Qwen2ForCausalLM(Qwen2Config(**options)), qwen(), folder, shard)


def _mlp(outputs: int) -> dict[str, Tensor]:
    return {
        "score.0.weight": torch.randn(WIDTH, WIDTH) / 8,
        "score.0.bias": torch.randn(WIDTH),
        "score.2.weight": torch.randn(outputs, WIDTH) / 8,
        "score.2.bias": torch.randn(outputs) / 4,
    }


def _value() -> dict[str, Tensor]:
    return {"v_head.summary.weight": torch.randn(1, WIDTH) / 8, "v_head.summary.bias": torch.randn(1)}


def padded_hidden(folder: Path, sequences: Sequences) -> tuple[Tensor, Tensor]:
    """Last hidden states and logits at each position: all sequences in one batch, padded on the right."""
    model: Any = AutoModelForCausalLM.from_pretrained(folder, config=_native(folder), dtype=torch.float32)
    model.eval()
    length = max(len(ids) for ids, _ in sequences)
    batch = torch.zeros(len(sequences), length, dtype=torch.long)
    mask = torch.zeros_like(batch)
    for row, (ids, _) in enumerate(sequences):
        batch[row, : len(ids)] = torch.tensor(ids)
        mask[row, : len(ids)] = 1
    with torch.inference_mode():
        out = model(batch, attention_mask=mask, output_hidden_states=True)
    rows, at = torch.arange(len(sequences)), torch.tensor([position for _, position in sequences])
    return out.hidden_states[-1][rows, at], out.logits[rows, at]


def _native(folder: Path) -> Any:
    raw = json.loads((folder / "config.json").read_text())
    raw = {key: value for key, value in raw.items() if key not in ("auto_map", "model_type")}
    names = (folder / "config.json").read_text()
    kind: Any = LlamaConfig if '"llama"' in names else MistralConfig if '"mistral"' in names else Qwen2Config
    return kind(**raw)


# -- the published layouts ------------------------------------------------------------------------------------------


def skywork(folder: Path, shard: str = "5GB", tied: bool = False, **config: Any) -> Path:
    _qwen_lm(folder, tied, shard)
    return put_on(folder, _value(), architectures=["Qwen2ForPrmModel"], **config)


def skywork_sequences(question: str, steps: list[str], separator: str = "\n") -> Sequences:
    # Skywork's prepare_input: bos + problem + newline, then the response, cut at every step token, each piece with the
    # step token's last id after it. A step's score is at the last one in it.
    tok, sequences = qwen(), []
    for count in range(1, len(steps) + 1):
        ids = plain(tok, (tok.bos_token or "") + question + "\n")
        for piece in "\n\n".join(steps[:count]).split(separator):
            ids = [*ids, *(plain(tok, piece) if piece else []), plain(tok, separator)[-1]]
        sequences.append((ids, len(ids) - 1))
    return sequences


def skywork_head(tensors: dict[str, Tensor], hidden: Tensor, _logits: Tensor) -> Tensor:
    return torch.sigmoid(hidden @ tensors["v_head.summary.weight"][0] + tensors["v_head.summary.bias"])


def qwen_prm(folder: Path, **config: Any) -> Path:
    _qwen_lm(folder)
    return put_on(
        folder,
        _mlp(2),
        architectures=["Qwen2ForProcessRewardModel"],
        auto_map={
            "AutoConfig": "configuration_qwen2_rm.Qwen2RMConfig",
            "AutoModel": "modeling_qwen2_rm.Qwen2ForProcessRewardModel",
        },
        **config,
    )


def qwen_sequences(question: str, steps: list[str], system: str | None = SYSTEM) -> Sequences:
    # The card: one conversation, <extra_0> after each step, scores at each <extra_0>.
    tok = qwen()
    messages = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": question})
    messages.append({"role": "assistant", "content": "<extra_0>".join(steps) + "<extra_0>"})
    ids = plain(tok, str(tok.apply_chat_template(messages, tokenize=False, add_generation_prompt=False)))
    mark = tok.convert_tokens_to_ids("<extra_0>")
    return [(ids, at) for at, id_ in enumerate(ids) if id_ == mark]


def qwen_head(tensors: dict[str, Tensor], hidden: Tensor, _logits: Tensor) -> Tensor:
    inner = torch.relu(hidden @ tensors["score.0.weight"].T + tensors["score.0.bias"])
    return torch.softmax(inner @ tensors["score.2.weight"].T + tensors["score.2.bias"], -1)[:, 1]


def actprm(folder: Path) -> Path:
    _qwen_lm(folder)
    sizes, members = (WIDTH, 32, 32, 1), 8
    tensors = {}
    for name, a, b in zip(("nn1", "nn2", "nn_out"), sizes, sizes[1:], strict=False):
        for part in ("model", "reg_model"):
            tensors[f"score.{part}.{name}.weight"] = torch.randn(members, a, b) / a**0.5
            tensors[f"score.{part}.{name}.bias"] = torch.randn(members, b)
    return put_on(folder, tensors, architectures=["Qwen2ForEnsemblePRM"], num_ensemble=8, rr_token="<extra_0>")


def actprm_head(tensors: dict[str, Tensor], hidden: Tensor, _logits: Tensor) -> Tensor:
    probabilities = []
    for member in range(8):
        x = hidden
        for name in ("nn1", "nn2", "nn_out"):
            x = x @ tensors[f"score.model.{name}.weight"][member] + tensors[f"score.model.{name}.bias"][member]
            x = torch.relu(x) if name != "nn_out" else x
        probabilities.append(torch.sigmoid(x[:, 0]))
    return torch.stack(probabilities).mean(0)


def shepherd(folder: Path) -> Path:
    return save(MistralForCausalLM(MistralConfig(**_options(mistral()))), mistral(), folder)


def shepherd_sequences(question: str, steps: list[str]) -> Sequences:
    # The card: "{question} {steps}", each step "Step i: … ки\n"; scores at ки.
    tok = mistral()
    text = question + " " + "".join(f"Step {i}: {step} ки\n" for i, step in enumerate(steps, 1))
    ids = list(tok(text)["input_ids"])
    mark = plain(tok, "ки")[-1]
    return [(ids, at) for at, id_ in enumerate(ids) if id_ == mark]


def words_head(right: str, wrong: str, tok: Callable[[], PreTrainedTokenizerBase]) -> Any:
    def head(_tensors: dict[str, Tensor], _hidden: Tensor, logits: Tensor) -> Tensor:
        good, bad = (plain(tok(), word)[-1] for word in (right, wrong))
        return torch.softmax(logits[:, [good, bad]], -1)[:, 0]

    return head


def rlhflow(folder: Path) -> Path:
    return save(LlamaForCausalLM(LlamaConfig(**_options(llama()))), llama(), folder)


def rlhflow_sequences(question: str, steps: list[str]) -> Sequences:
    # prm_evaluate.py: a conversation that ends with the step's "+"; the score is two tokens before its end.
    tok, sequences = llama(), []
    conversation: list[dict[str, str]] = []
    for i, step in enumerate(steps):
        conversation.append({"role": "user", "content": f"{question} {step}" if i == 0 else step})
        conversation.append({"role": "assistant", "content": "+"})
        ids = plain(tok, str(tok.apply_chat_template(conversation, tokenize=False)))
        sequences.append((ids, len(ids) - 3))
    return sequences


def granite_sequences(question: str, steps: list[str]) -> Sequences:
    # prepare_input of the card, each "Y" of the assistant's; the logits before it are read.
    tok, sequences = llama(), []
    messages: list[dict[str, str]] = []
    for i, step in enumerate(steps):
        asked = (f"{question} {step}" if i == 0 else step) + " Is this response correct so far (Y/N)?"
        messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": "Y"}]
        ids = plain(tok, str(tok.apply_chat_template(messages, tokenize=False, add_generation_prompt=False)))
        sequences.append((ids, len(ids) - 3))  # Y, the end of the turn
    return sequences


def versa(folder: Path) -> Path:
    return save(LlamaForCausalLM(LlamaConfig(**_options(llama(), tie_word_embeddings=True))), llama(), folder)


def versa_sequences(question: str, steps: list[str]) -> Sequences:
    tok = llama()
    ids = list(tok(f"{question} \n\n" + "".join(f"{step} \n\n\n\n" for step in steps))["input_ids"])
    mark = plain(tok, " \n\n\n\n")[-1]
    return [(ids, at) for at, id_ in enumerate(ids) if id_ == mark]


def with_marks() -> PreTrainedTokenizerBase:
    """The same with a token for ки, as in Llama 3."""
    return llama(f"{TEXT}\nProblem: Steps:\nStep 1: {'ки ки' * 9}\nки\nStep 2: b\nки")


def babelscape(folder: Path) -> Path:
    """A body with a scalar head, behind a class of the authors' own."""
    save(LlamaForCausalLM(LlamaConfig(**_options(with_marks()))), with_marks(), folder)
    head = {"reward_head.weight": torch.randn(1, WIDTH) / 8, "reward_head.bias": torch.randn(1)}
    return put_on(folder, head, architectures=["LlamaPRM"], auto_map={"AutoModel": "modeling_prm.LlamaPRM"})


def babelscape_sequences(question: str, steps: list[str]) -> Sequences:
    # build_prompt of the card; scores at every ки.
    tok = with_marks()
    text = "\n".join(f"Step {i}: {step}\nки" for i, step in enumerate(steps, 1))
    ids = list(tok(f"Problem: {question}\nSteps:\n{text}")["input_ids"])
    (mark,) = plain(tok, "ки")
    return [(ids, at) for at, id_ in enumerate(ids) if id_ == mark]


def spare_sequences(question: str, steps: list[str]) -> Sequences:
    # README: a chat with the authors' instruction, " ки" after each step, scores at its last id. In Qwen's vocabulary
    # it has two tokens, of which the last one may stand elsewhere as well.
    tok = qwen()
    messages = [
        {"role": "system", "content": SPARE_SYSTEM},
        {"role": "user", "content": question},
        {"role": "assistant", "content": "".join(f"{step} ки\n" for step in steps)},
    ]
    ids = plain(tok, str(tok.apply_chat_template(messages, tokenize=False)))
    mark = plain(tok, " ки")
    return [(ids, at - 1) for at in range(len(ids) + 1) if ids[at - len(mark) : at] == mark]


def openr_sequences(question: str, steps: list[str]) -> Sequences:
    tok = qwen()
    ids = list(tok(f"{question} " + " ".join(f"{step} \n\n\n\n\n" for step in steps))["input_ids"])
    mark = plain(tok, " \n\n\n\n\n")[-1]
    return [(ids, at) for at, id_ in enumerate(ids) if id_ == mark]


def trl(folder: Path) -> Path:
    made = TokenClassifier(Qwen2Config(**_options(qwen(), num_labels=2)))
    torch.nn.init.normal_(made.score.bias)
    save(made, qwen(), folder)
    return put_on(folder, {}, id2label=..., label2id=..., num_labels=...)


def trl_sequences(question: str, steps: list[str]) -> Sequences:
    # PRMTrainer.tokenize_row
    tok, sequences = qwen(), []
    ids = [*([tok.bos_token_id] if tok.bos_token_id is not None else []), *plain(tok, question)]
    for step in steps:
        ids = [*ids, *plain(tok, step), *plain(tok, "\n\n")]
        sequences.append((ids, len(ids) - 1))
    return sequences


def trl_head(tensors: dict[str, Tensor], hidden: Tensor, _logits: Tensor) -> Tensor:
    return torch.softmax(hidden @ tensors["score.weight"].T + tensors["score.bias"], -1)[:, 1]


def universal(folder: Path) -> Path:
    """Pickled weights, a value head, remote code named in the configuration."""
    _qwen_lm(folder)
    state = weights(folder) | {"v_head.weight": torch.randn(1, WIDTH) / 8, "v_head.bias": torch.randn(1)}
    torch.save(state, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    raw = json.loads((folder / "config.json").read_text()) | {"auto_map": {"AutoModel": "modeling.UniversalPRM"}}
    (folder / "config.json").write_text(json.dumps(raw))
    return folder


def universal_sequences(question: str, steps: list[str]) -> Sequences:
    tok, sequences = qwen(), []
    messages = [
        {"role": "system", "content": "You are a helpful assistant."},
        {
            "role": "user",
            "content": f"{question}\n\n###\n\nThe reference answer is: There is no reference answer for this question.",
        },
    ]
    text = str(tok.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
    for count in range(1, len(steps) + 1):
        ids = [*plain(tok, text + "\n\n".join(steps[:count]) + "\n\n"), tok.eos_token_id]
        sequences.append((ids, len(ids) - 1))
    return sequences


def reasonflux_small(folder: Path) -> Path:
    _qwen_lm(folder)
    torch.save({"weight": torch.randn(1, WIDTH) / 8, "bias": torch.randn(1)}, folder / "reward_head.pt")
    return folder


def reasonflux_sequences(question: str, steps: list[str]) -> Sequences:
    tok, sequences = qwen(), []
    for count in range(1, len(steps) + 1):
        ids = plain(tok, question + "".join(f"{step}\n\n" for step in steps[:count]))
        sequences.append((ids, len(ids) - 1))
    return sequences


def outcome(folder: Path) -> Path:
    return save(SequenceClassifier(Qwen2Config(**_options(qwen(), num_labels=1))), qwen(), folder)


def outcome_llama(folder: Path) -> Path:
    return save(LlamaSequenceClassifier(LlamaConfig(**_options(llama(), num_labels=1))), llama(), folder)


def outcome_sequences(
    question: str, steps: list[str], tokenizer: Callable[[], PreTrainedTokenizerBase] = qwen
) -> Sequences:
    tok, sequences = tokenizer(), []
    for count in range(1, len(steps) + 1):
        answer = "".join(f"{step}\n\n" for step in steps[:count])
        messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        ids = plain(tok, str(tok.apply_chat_template(messages, tokenize=False)))
        sequences.append((ids, len(ids) - 1))
    return sequences


def plain(tok: PreTrainedTokenizerBase, text: str) -> list[int]:
    return list(tok(text, add_special_tokens=False)["input_ids"])


@dataclass(frozen=True)
class Case:
    """A layout: how its checkpoint is made, what the card computes, and what a user says to load it."""

    make: Callable[[Path], Path]
    sequences: Callable[[str, list[str]], Sequences]
    head: Callable[[dict[str, Tensor], Tensor, Tensor], Tensor]
    options: dict[str, Any] = field(default_factory=dict)
    extra: Callable[[Path], dict[str, Tensor]] = lambda folder: {}
    """Tensors of the head that are not in safetensors."""

    def rewards(self, folder: Path, question: str, steps: list[str]) -> list[float]:
        """The rewards of all steps by the card's recipe."""
        sequences = self.sequences(question, steps)
        assert len(sequences) == len(steps)
        hidden, logits = padded_hidden(folder, sequences)
        return [float(p) for p in self.head(weights(folder) | self.extra(folder), hidden, logits)]


def _bias_head(prefix: str) -> Any:
    def head(tensors: dict[str, Tensor], hidden: Tensor, _logits: Tensor) -> Tensor:
        out = hidden @ tensors[f"{prefix}weight"][0]
        return torch.sigmoid(out + tensors[f"{prefix}bias"] if f"{prefix}bias" in tensors else out)

    return head


def _pickled(folder: Path) -> dict[str, Tensor]:
    return {
        name: tensor
        for file in (*folder.glob("*.pt"), *folder.glob("*.bin"))
        for name, tensor in torch.load(file, weights_only=True).items()
    }


CASES = {
    "skywork": Case(skywork, skywork_sequences, skywork_head),
    "skywork-sharded": Case(lambda folder: skywork(folder, shard="60KB"), skywork_sequences, skywork_head),
    "skywork-tied": Case(
        lambda folder: skywork(folder, tied=True, auto_map={"AutoConfig": "x.Qwen2RMConfig"}),
        lambda question, steps: skywork_sequences(question, steps, "\n\n"),
        skywork_head,
        {"separator": "\n\n"},
    ),
    "qwen": Case(qwen_prm, qwen_sequences, qwen_head),
    "qwen-rm-type": Case(lambda folder: qwen_prm(folder, model_type="qwen2_rm"), qwen_sequences, qwen_head),
    "reasonflux": Case(
        qwen_prm,
        lambda question, steps: qwen_sequences(question, steps, None),
        qwen_head,
        {"format": "qwen2.5-math-prm-bare"},
    ),
    "actprm": Case(actprm, qwen_sequences, actprm_head),
    "math-shepherd": Case(shepherd, shepherd_sequences, words_head("+", "-", mistral), {"format": "math-shepherd"}),
    "rlhflow": Case(rlhflow, rlhflow_sequences, words_head("+", "-", llama), {"format": "rlhflow"}),
    "granite": Case(rlhflow, granite_sequences, words_head("Y", "N", llama), {"format": "granite-prm"}),
    "versaprm": Case(versa, versa_sequences, words_head("+", "-", llama), {"format": "versaprm"}),
    "spare": Case(
        lambda folder: _qwen_lm(folder, context=1024),
        spare_sequences,
        words_head("+", "-", qwen),
        {"format": "spare-prm"},
    ),
    "babelscape": Case(babelscape, babelscape_sequences, _bias_head("reward_head."), {"format": "babelscape"}),
    "openr": Case(_qwen_lm, openr_sequences, words_head(" +", " -", qwen), {"format": "openr"}),
    "trl": Case(trl, trl_sequences, trl_head, {"separator": "\n\n"}),
    "universal": Case(
        universal,
        universal_sequences,
        _bias_head("v_head."),
        {"format": "universal-prm", "allow_pickles": True},
        _pickled,
    ),
    "reasonflux-1.5b": Case(reasonflux_small, reasonflux_sequences, _bias_head(""), {"allow_pickles": True}, _pickled),
    "outcome": Case(outcome, outcome_sequences, _bias_head("score.")),
    # Its template cuts the blank line at the end of an answer.
    "outcome-llama": Case(
        outcome_llama, lambda question, steps: outcome_sequences(question, steps, llama), _bias_head("score.")
    ),
}


def make(name: str, folder: Path, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    return CASES[name].make(folder)

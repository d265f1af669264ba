"""Code that one would write with transformers alone: `generate()`, assisted decoding, and a plain RSD loop."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoModelForCausalLM

from rsd_integrations.embedded.models import FOLDER
from rsd_integrations.huggingface.from_pretrained import load_tokenizer

TOKENS = 400


class Plain:
    """The embedded family without the engine: each call starts from the text."""

    def __init__(self, delta: float) -> None:
        self.delta = delta
        self.tokenizer: Any = load_tokenizer(FOLDER / "target")
        self.draft: Any
        self.verifier: Any
        self.target: Any
        self.draft, self.verifier, self.target = (
            AutoModelForCausalLM.from_pretrained(FOLDER / name, dtype=torch.float32)
            for name in ("draft", "verifier", "target")
        )
        marked = [id_ for id_ in range(len(self.tokenizer)) if "\n\n" in self.tokenizer.decode([id_])]
        self._ends = [*marked, self.tokenizer.eos_token_id]

    def target_generate(self, prompt: str) -> str:
        """The target alone."""
        return self._text(self.target.generate(self._ids(prompt), max_new_tokens=TOKENS, do_sample=False), prompt)

    def assisted(self, prompt: str) -> str:
        """The target with transformers' assisted decoding by the drafter."""
        return self._text(
            self.target.generate(self._ids(prompt), max_new_tokens=TOKENS, do_sample=False, assistant_model=self.draft),
            prompt,
        )

    @torch.inference_mode()
    def naive_rsd(self, prompt: str) -> str:
        """One `generate()` per step, and one full pass of the verifier per step."""
        ids = self._ids(prompt)
        for _ in range(40):
            step = self._step(self.draft, ids)
            logits = self.verifier(step).logits[0, ids.shape[1] - 1 : -1].softmax(-1)
            if logits.gather(1, step[0, ids.shape[1] :, None]).min() < self.delta:
                step = self._step(self.target, ids)
            ids = step
            if ids[0, -1] == self.tokenizer.eos_token_id:
                break
        return self._text(ids, prompt)

    def _step(self, model: Any, ids: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = model.generate(ids, max_new_tokens=TOKENS, do_sample=False, eos_token_id=self._ends)
        return made

    def _ids(self, prompt: str) -> torch.Tensor:
        messages = [{"role": "user", "content": prompt}]
        text = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        ids: torch.Tensor = self.tokenizer(text, return_tensors="pt", add_special_tokens=False)["input_ids"]
        return ids

    def _text(self, ids: torch.Tensor, prompt: str) -> str:
        return str(self.tokenizer.decode(ids[0, self._ids(prompt).shape[1] :], skip_special_tokens=True))

# SPDX-License-Identifier: Apache-2.0
"""`prosparse generate`: stream text from a model (through the dense path of transformers)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TextStreamer, set_seed

from prosparse.errors import UserError
from prosparse.model.checkpoint import load, load_tokenizer
from prosparse.model.device import choose_device

if TYPE_CHECKING:
    from pathlib import Path

OnText = Callable[[str], None]


class CallbackStreamer(TextStreamer):
    """Hands each finished piece of text to a function instead of printing it."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, on_text: OnText) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self._on_text = on_text

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Pass a piece on."""
        self._on_text(text)


def generate(
    model: str | Path | PreTrainedModel,
    prompt: str | Sequence[dict[str, str]],
    *,
    max_new_tokens: int = 128,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    device: str = "auto",
    tokenizer: PreTrainedTokenizerBase | None = None,
    trust_remote_code: bool = False,
    on_text: OnText | None = None,
) -> str:
    """Return the text a model writes after a prompt.

    Args:
        model: Folder, GGUF file, hub id, or a model that is already loaded.
        prompt: Text to go on from, or a conversation: dicts with `role` and `content`, rendered
            with the tokenizer's chat template.
        max_new_tokens: At most this many tokens, >= 1.
        temperature: 0 takes the likeliest token each time; above 0 samples.
        top_p: Sample from the smallest set of tokens with this much probability, in (0, 1].
        seed: Seed of the sampling.
        device: `auto`, `cpu`, `cuda`, ...
        tokenizer: Needed only with a loaded model that does not know where it came from.
        trust_remote_code: Run modeling code that comes with the checkpoint.
        on_text: Called with each piece of text as it is written.

    Raises:
        UserError: The model cannot be loaded, has no chat template, or an option is out of range.

    Example:
        >>> import prosparse as ps
        >>> ps.generate("runs/sparse", "The capital of France is", max_new_tokens=8)
    """
    check_options(max_new_tokens, temperature, top_p)
    where = model.device if isinstance(model, PreTrainedModel) else choose_device(device)
    name = model.config.name_or_path or "" if isinstance(model, PreTrainedModel) else model
    if tokenizer is None:
        tokenizer = load_tokenizer(name, trust_remote_code=trust_remote_code)
    inputs = _encode(prompt, tokenizer).to(where)
    if inputs["input_ids"].shape[-1] == 0:
        raise UserError("--prompt is empty; give at least one word to go on from.")
    if isinstance(model, PreTrainedModel):
        network = model
    else:
        network = load(model, device=where, trust_remote_code=trust_remote_code)
    set_seed(seed)
    # top_k=0 switches off transformers' default, which would look at 50 tokens only.
    sampling = {"temperature": temperature, "top_p": top_p, "top_k": 0} if temperature > 0 else {}
    with torch.no_grad():
        ids = network.generate(  # type: ignore[operator]
            **inputs,
            max_new_tokens=max_new_tokens,
            do_sample=temperature > 0,
            pad_token_id=tokenizer.pad_token_id or tokenizer.eos_token_id,
            streamer=CallbackStreamer(tokenizer, on_text) if on_text else None,
            **sampling,
        )
    new = ids[0, inputs["input_ids"].shape[-1] :]
    return str(tokenizer.decode(new, skip_special_tokens=True))


def _encode(prompt: str | Sequence[dict[str, str]], tokenizer: PreTrainedTokenizerBase) -> Any:
    if isinstance(prompt, str):
        return tokenizer(prompt, return_tensors="pt", return_token_type_ids=False)
    if tokenizer.chat_template is None:
        raise UserError("This model has no chat template; use --prompt instead of --chat.")
    return tokenizer.apply_chat_template(
        list(prompt), add_generation_prompt=True, return_tensors="pt", return_dict=True
    )


def check_options(max_new_tokens: int, temperature: float, top_p: float) -> None:
    """Raise unless the options of `generate` are in range.

    Raises:
        UserError: One is not.
    """
    if max_new_tokens < 1:
        raise UserError(f"--tokens must be at least 1; found {max_new_tokens}.")
    if not 0 <= temperature < math.inf:
        raise UserError(f"--temperature must be >= 0; found {temperature}.")
    if not 0 < top_p <= 1:
        raise UserError(f"--top-p must be in (0, 1]; found {top_p}.")

# SPDX-License-Identifier: Apache-2.0
"""`prosparse generate`: stream text from a model, densely or sparsely."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase, set_seed

from prosparse.errors import UserError
from prosparse.model.checkpoint import load, load_tokenizer
from prosparse.model.device import choose_device
from prosparse.runtime.accelerate import Accelerated, accelerate, is_accelerated
from prosparse.runtime.decodable import why_no_decoder
from prosparse.runtime.decode import Decoder
from prosparse.runtime.llama_step import why_no_llama_step
from prosparse.runtime.streaming import CallbackStreamer, Pace

if TYPE_CHECKING:
    from pathlib import Path

BACKENDS = ("dense", "sparse", "screened", "predicted")
# What `generate` decides itself. A checkpoint that asks for anything else (a repetition penalty,
# beams) is decoded by transformers, which knows what it means.
DECIDED = {
    *("bos_token_id", "eos_token_id", "pad_token_id", "max_length", "max_new_tokens"),
    *("do_sample", "temperature", "top_p", "top_k"),
    *("use_cache", "output_attentions", "output_hidden_states"),
    *("transformers_version", "_from_model_config"),
}

OnText = Callable[[str], None]
OnPace = Callable[[Pace], None]


def generate(
    model: str | Path | PreTrainedModel,
    prompt: str | Sequence[dict[str, str]],
    *,
    max_new_tokens: int = 128,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    backend: str = "dense",
    predictors: str | Path | None = None,
    device: str = "auto",
    tokenizer: PreTrainedTokenizerBase | None = None,
    trust_remote_code: bool = False,
    on_text: OnText | None = None,
    on_pace: OnPace | None = None,
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
        backend: `dense` runs the model as it is; `sparse` and `screened` accelerate it for this
            call (see `prosparse.accelerate`), unless it already is; `predicted` goes by `predictors`.
        predictors: Of `predicted`: the folder of `prosparse predictor fit`.
        device: `auto`, `cpu`, `cuda`, ...
        tokenizer: Needed only with a loaded model that does not know where it came from.
        trust_remote_code: Run modeling code that comes with the checkpoint.
        on_text: Called with each piece of text as it is written.
        on_pace: Called once, at the end, with how fast the tokens came.

    Raises:
        UserError: The model cannot be loaded, has no chat template, is to run sparsely and
            cannot, or an option is out of range.

    Example:
        >>> import prosparse as ps
        >>> ps.generate("runs/sparse", "The capital of France is", max_new_tokens=8)
    """
    check_options(max_new_tokens, temperature, top_p, backend)
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
    streamer = CallbackStreamer(tokenizer, on_text or (lambda piece: None))
    is_new = backend != "dense" and not is_accelerated(network)
    with accelerated_as(backend, network, predictors) if is_new else contextlib.nullcontext():
        write = _write_replayed if _suits_replay(network) else _write_with_transformers
        new = write(network, inputs, streamer, max_new_tokens, temperature, top_p)
    if on_pace is not None:
        on_pace(streamer.pace())
    return str(tokenizer.decode(new, skip_special_tokens=True))


def _suits_replay(network: PreTrainedModel) -> bool:
    """Whether to use our own loop: on a GPU or with steps of one call, if it writes what transformers would."""
    asked = network.generation_config.to_diff_dict()  # type: ignore[union-attr]
    is_fast = network.device.type == "cuda" or why_no_llama_step(network) is None
    return is_fast and DECIDED.issuperset(asked) and why_no_decoder(network) is None


def _write_replayed(
    network: PreTrainedModel,
    inputs: Any,
    streamer: CallbackStreamer,
    max_new_tokens: int,
    temperature: float,
    top_p: float,
) -> list[int]:
    prompt = inputs["input_ids"]
    on_gpu = network.device.type == "cuda"
    decoder = Decoder(
        network,
        max_length=prompt.shape[-1] + max_new_tokens,
        graph=on_gpu,
        temperature=temperature,
        top_p=top_p,
    )
    streamer.put(prompt)
    new: list[int] = []
    # A look at a GPU's tokens waits for all that is queued there.
    for piece in decoder.stream(prompt, max_new_tokens, check_every=8 if on_gpu else 1):
        streamer.put(piece)
        new += piece[0].tolist()
    streamer.end()
    return new


def _write_with_transformers(
    network: PreTrainedModel,
    inputs: Any,
    streamer: CallbackStreamer,
    max_new_tokens: int,
    temperature: float,
    top_p: float,
) -> list[int]:
    # top_k=0 switches off transformers' default, which would look at 50 tokens only.
    sampling = {"temperature": temperature, "top_p": top_p, "top_k": 0} if temperature > 0 else {}
    tokenizer = streamer.tokenizer
    with torch.no_grad():
        ids = network.generate(  # type: ignore[operator]
            **inputs,
            max_new_tokens=max_new_tokens,
            do_sample=temperature > 0,
            pad_token_id=tokenizer.pad_token_id or tokenizer.eos_token_id,
            streamer=streamer,
            **sampling,
        )
    return ids[0, inputs["input_ids"].shape[-1] :].tolist()


def _encode(prompt: str | Sequence[dict[str, str]], tokenizer: PreTrainedTokenizerBase) -> Any:
    if isinstance(prompt, str):
        return tokenizer(prompt, return_tensors="pt", return_token_type_ids=False)
    if tokenizer.chat_template is None:
        raise UserError("This model has no chat template; use --prompt instead of --chat.")
    return tokenizer.apply_chat_template(
        list(prompt), add_generation_prompt=True, return_tensors="pt", return_dict=True
    )


def accelerated_as(
    backend: str, model: PreTrainedModel, predictors: str | Path | None
) -> contextlib.AbstractContextManager[Accelerated | None]:
    """Return what accelerates a model as one of `BACKENDS`, for a `with` block."""
    if backend == "dense":
        return contextlib.nullcontext()
    if backend == "predicted":
        return accelerate(model, backend="predicted", predictors=predictors)
    return accelerate(model, screened=backend == "screened")


def check_options(max_new_tokens: int, temperature: float, top_p: float, backend: str) -> None:
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
    if backend not in BACKENDS:
        raise UserError(f"--backend must be one of {', '.join(BACKENDS)}; found '{backend}'.")

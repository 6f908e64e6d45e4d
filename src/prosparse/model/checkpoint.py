# SPDX-License-Identifier: Apache-2.0
"""Load and save checkpoints: local folders, GGUF files, hub ids.

Models that others publish in a format of their own become stock ones here (`prosparse.model.formats`).

Weights come from safetensors or GGUF, never from a pickle; code that travels with a checkpoint
runs only when the caller says so.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, cast

import torch

from prosparse.errors import UserError
from prosparse.model.whole import STRICTLY, refuse_incomplete, refuse_non_causal

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase


def load(
    model: str | Path,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    trust_remote_code: bool = False,
) -> PreTrainedModel:
    """Return the causal language model of a folder, a GGUF file or a hub id, in eval mode.

    A model in a published format of its own (ProSparse-LLaMA2, MiniCPM-S, ...) becomes the same model of
    a stock class; code that it comes with is not needed.

    Args:
        model: Local Hugging Face folder, `.gguf` file, or hub id.
        dtype: Dtype of the weights; None keeps the checkpoint's own (float32 for a GGUF, whose
            blocks are unpacked).
        device: Where to put it.
        trust_remote_code: Run modeling code that comes with the checkpoint.

    Raises:
        UserError: It does not exist, is broken, or is no causal language model.

    Example:
        >>> import prosparse as ps
        >>> network = ps.load("HuggingFaceTB/SmolLM2-135M-Instruct")
        >>> network.config.hidden_act
        'silu'
    """
    from transformers import AutoModelForCausalLM

    if is_gguf(model):
        from prosparse.model.gguf import load_gguf

        network = load_gguf(Path(model), dtype or torch.float32)
    else:
        source = _existing(model)
        config = _causal_config(source, trust_remote_code)
        with as_user_error(f"{model} cannot be loaded"):
            network, info = AutoModelForCausalLM.from_pretrained(
                source,
                config=config,
                dtype=dtype or "auto",
                trust_remote_code=trust_remote_code,
                use_safetensors=True,
                **STRICTLY,
            )
        refuse_incomplete(info, str(model))
    restore_activation(network)
    return network.to(device).eval()  # type: ignore[arg-type]


def check_model(model: str | Path, *, trust_remote_code: bool = False) -> None:
    """Raise unless there is a causal language model here; quick, for it reads no weights.

    Raises:
        UserError: It does not exist, is broken, or is no causal language model.
    """
    if is_gguf(model):
        from prosparse.model.gguf import read_metadata

        read_metadata(Path(model))
    else:
        _causal_config(_existing(model), trust_remote_code)


def skeleton(model: str | Path, *, trust_remote_code: bool = False) -> PreTrainedModel:
    """Return a model's architecture without its weights, on device `meta`; reads its configuration.

    Raises:
        UserError: It does not exist, is broken, or is no causal language model.
    """
    from transformers import AutoConfig

    if is_gguf(model):
        from prosparse.model.gguf import ARCHITECTURE_KEY, OWN_LLAMA, read_metadata

        metadata = read_metadata(Path(model))
        if metadata.get(ARCHITECTURE_KEY) == OWN_LLAMA:
            from prosparse.model.own_gguf import own_config

            return _empty(own_config(metadata), model, trust_remote_code)
        with as_user_error(f"{model} cannot be loaded"):
            config = AutoConfig.from_pretrained(
                Path(model).parent, gguf_file=Path(model).name, trust_remote_code=trust_remote_code
            )
    else:
        config = _causal_config(_existing(model), trust_remote_code)
    return _empty(config, model, trust_remote_code)


def load_tokenizer(
    model: str | Path, *, trust_remote_code: bool = False
) -> PreTrainedTokenizerBase:
    """Return the tokenizer of a folder, a GGUF file or a hub id.

    Raises:
        UserError: There is none, it cannot be read, or the model is no causal language model.
    """
    from transformers import AutoTokenizer

    if is_gguf(model):
        from prosparse.model.gguf import load_gguf_tokenizer

        return load_gguf_tokenizer(Path(model))
    source = _existing(model)
    # Every verb reads the tokenizer first: a wrong model is refused here, before the data is read.
    config = _causal_config(source, trust_remote_code)
    with as_user_error(f"{model} has no usable tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(
            source, config=config, trust_remote_code=trust_remote_code
        )
    return cast("PreTrainedTokenizerBase", tokenizer)


def save(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    *,
    base: str,
    notes: Sequence[str] = (),
    caution: str = "",
    weights: dict[str, Tensor] | None = None,
) -> None:
    """Write a checkpoint and a model card, which says what it takes to load it.

    Args:
        model: The model; its weights are written in the dtype they have, as safetensors.
        tokenizer: Written beside it.
        folder: An existing folder.
        base: What the model was made from, for the card; not needed where that has a card itself.
        notes: Sentences for the card: what was done, what was measured.
        caution: A sentence for this card alone.
        weights: Those to write, of a model that has only a part of them; None: its own.
    """
    from prosparse.model.card import model_card
    from prosparse.model.standalone import write_standalone

    model.save_pretrained(folder, state_dict=weights)
    write_standalone(model, folder)
    tokenizer.save_pretrained(folder)
    card = model_card(model, base, notes, caution=caution)
    (folder / "README.md").write_text(card, encoding="utf-8")


def restore_activation(model: PreTrainedModel) -> None:
    """Put the activation that the config names where another module is.

    Some families hard-code their activation; and modeling code that comes with a checkpoint, ours
    too, brings modules of its own, which the sparse path would not know.
    """
    from prosparse.model.activation import SPARSE_ACTIVATIONS
    from prosparse.model.ffn import ffns
    from prosparse.model.relufy import OWN_KEY, activation_of, relufy_in_place
    from prosparse.model.standalone import is_standalone

    name = getattr(model.config.get_text_config(), OWN_KEY, None)
    if is_standalone(model):
        name = activation_of(model).name
    if name not in SPARSE_ACTIVATIONS:
        return
    if is_standalone(model) and name == "drelu":
        for ffn in ffns(model):  # our module computes all of it; a hook would keep others from it
            ffn.module.get_submodule(ffn.family.up)._forward_hooks.clear()
    if ffns(model)[0].family.config_key is None or is_standalone(model):
        relufy_in_place(model, activation_of(model))


def is_gguf(model: str | Path) -> bool:
    """Return whether the name is that of a GGUF file."""
    return str(model).lower().endswith(".gguf")


@contextlib.contextmanager
def as_user_error(what: str) -> Iterator[None]:
    """Turn what transformers raises for a checkpoint it cannot use into one sentence.

    Raises:
        UserError: `what`, and the reason that transformers gave.
    """
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError

    try:
        yield
    except UserError:
        raise
    except KeyError as error:
        raise UserError(f"{what}: it needs {error}, which is not there.") from error
    except (
        OSError,
        ValueError,
        TypeError,
        ImportError,
        StrictDataclassError,
        SafetensorError,
    ) as error:
        reason = shorten(str(error), 600).rstrip(".")
        raise UserError(f"{what}: {reason}.") from error


def _empty(config: PreTrainedConfig, model: str | Path, trust_remote_code: bool) -> PreTrainedModel:
    from transformers import AutoModelForCausalLM

    with as_user_error(f"{model} cannot be built"), torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)


def _causal_config(source: str, trust_remote_code: bool) -> PreTrainedConfig:
    from transformers import AutoConfig, PreTrainedConfig
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    from prosparse.model.formats.table import stock_config

    is_local = Path(source).is_dir()
    what = source if is_local else f"There is no folder {source}, and as a hub id it"
    with as_user_error(f"{what} cannot be loaded"):
        stock = None
        if not trust_remote_code:
            stock = stock_config(PreTrainedConfig.get_config_dict(source)[0], source)
        if stock is None:
            config = AutoConfig.from_pretrained(source, trust_remote_code=trust_remote_code)
        else:
            config = CONFIG_MAPPING[stock["model_type"]].from_dict(stock, name_or_path=source)
    refuse_non_causal(config, source)
    return config


def _existing(model: str | Path) -> str:
    """Return the name for transformers; refuse what is neither a folder nor a possible hub id."""
    if not str(model):
        raise UserError(
            "No model was named; give a model folder, a .gguf file or a hub id, or with a loaded "
            "model that came from nowhere its tokenizer."
        )
    path = Path(model).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise UserError(f"{model} has no config.json: it is not a Hugging Face model folder.")
        return str(path)
    if path.is_file():
        raise UserError(f"{model} is a file; give a model folder, a .gguf file or a hub id.")
    # A hub id is `name` or `owner/name`; anything else can only be a path that is not there.
    looks_like_path = str(model).startswith((".", "/", "~")) or str(model).count("/") > 1
    if looks_like_path:
        raise UserError(f"No model at {model}: the path does not exist.")
    return str(model)

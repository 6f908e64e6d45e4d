# SPDX-License-Identifier: Apache-2.0
"""`prosparse generate`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from prosparse.cli.options import Device, Model, TrustRemoteCode
from prosparse.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable

    from prosparse.runtime.streaming import Pace


def generate(
    model: Model,
    prompt: Annotated[str | None, typer.Option(help="Text to go on from.")] = None,
    chat: Annotated[
        bool,
        typer.Option("--chat", help="Hold a conversation; --prompt, if given, is its first turn."),
    ] = False,
    tokens: Annotated[int, typer.Option(help="At most this many new tokens a turn.")] = 128,
    temperature: Annotated[float, typer.Option(help="0 takes the likeliest token.")] = 0.0,
    top_p: Annotated[float, typer.Option(help="Sample from this much probability.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Seed of the sampling.")] = 0,
    backend: Annotated[
        str,
        typer.Option(
            metavar="dense|sparse|screened|predicted",
            help="sparse: only the active neurons of a ReLU model; screened: the same, with an "
            "int8 copy of the gate; predicted: those of --predictors, approximately.",
        ),
    ] = "dense",
    predictors: Annotated[
        str | None, typer.Option(help="Of predicted: folder of `prosparse predictor fit`.")
    ] = None,
    device: Device = "auto",
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Stream text from a model. A chat ends with an empty line or Ctrl-D.

    At the end stderr says how many tokens came, and how fast after the first.

    Example: `prosparse generate runs/demo/model --prompt "The for statement is used to"`
    """
    import prosparse as ps
    from prosparse.model.device import choose_device
    from prosparse.runtime.generate import accelerated_as, check_options

    if not (prompt or chat):
        raise UserError("Give --prompt TEXT or --chat.")
    check_options(tokens, temperature, top_p, backend)
    where = choose_device(device)
    tokenizer = ps.load_tokenizer(model, trust_remote_code=trust_remote_code)
    if chat and tokenizer.chat_template is None:
        raise UserError("This model has no chat template; use --prompt instead of --chat.")
    network = ps.load(model, device=where, trust_remote_code=trust_remote_code)

    paces: list[Pace] = []

    def write(conversation: str | list[dict[str, str]]) -> str:
        text = ps.generate(
            network,
            conversation,
            max_new_tokens=tokens,
            temperature=temperature,
            top_p=top_p,
            seed=seed,
            tokenizer=tokenizer,
            on_text=lambda piece: print(piece, end="", flush=True),
            on_pace=paces.append,
        )
        print()
        return text

    # Once for all turns of a chat.
    with accelerated_as(backend, network, predictors) as accelerated:
        if chat:
            _hold_conversation(write, prompt)
        else:
            write(prompt or "")
    if paces:
        said_more = f" {accelerated}" if accelerated is not None else ""
        print(f"{sum(paces[1:], paces[0])} ({backend}).{said_more}", file=sys.stderr)


def _hold_conversation(write: Callable[[list[dict[str, str]]], str], prompt: str | None) -> None:
    turns: list[dict[str, str]] = []
    said = prompt or _ask()
    while said:
        turns.append({"role": "user", "content": said})
        turns.append({"role": "assistant", "content": write(turns)})
        said = _ask()


def _ask() -> str:
    try:
        return input("> ").strip()
    except EOFError:
        return ""

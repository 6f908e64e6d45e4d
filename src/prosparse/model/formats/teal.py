# SPDX-License-Identifier: Apache-2.0
"""TEAL: thresholds for the inputs of an FFN's projections, from histograms of what enters them.

TEAL is no checkpoint but a folder beside one: `layer-N/mlp/histograms.pt` holds how often which value
entered gate and up (`h1`) and down (`h2`), and `layer-N/results.csv` of a second folder which sparsity
each projection should have for a wanted one (its greedy search). `sparsify_inputs` turns them into thresholds
in the model's config, with which it is saved and loaded as one. TEAL's thresholds for the projections of the
attention are not applied: prosparse is about the FFN.

Source: utils/utils.py, teal/mlp.py of FasterDecoding/TEAL. That code leaves the first half of a prompt dense;
here every token is treated alike.
"""

from __future__ import annotations

import csv
import pickle
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from prosparse.errors import UserError
from prosparse.model.ffn import ffns
from prosparse.model.input_thresholds import KEY, PROJECTIONS, cut_inputs

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

HISTOGRAMS = {"gate": "h1", "up": "h1", "down": "h2"}
WANTED = "Effective Sparsity"


def sparsify_inputs(
    model: PreTrainedModel,
    histograms: str | Path,
    *,
    sparsity: float,
    lookup: str | Path | None = None,
) -> None:
    """Cut the inputs of a model's FFNs at the thresholds that TEAL's histograms give.

    Args:
        model: A model of a family with gate, up and down projections, e.g. Llama or Mistral; its config
            then holds the thresholds, so saving it is enough.
        histograms: TEAL's folder of that name, with `layer-N/mlp/histograms.pt` for each layer.
        sparsity: Wanted share of zeros in the inputs, in [0, 1).
        lookup: TEAL's folder of that name, with `layer-N/results.csv`: the projections of each layer
            then get the sparsities of the row nearest to `sparsity`, else all get `sparsity`.

    Raises:
        UserError: A file is missing or is none of TEAL's, or the model has no such FFN.

    Example:
        >>> import prosparse as ps
        >>> from prosparse.model.formats.teal import sparsify_inputs
        >>> network = ps.load("meta-llama/Llama-2-7b-hf")
        >>> sparsify_inputs(network, "models/Llama-2-7B/histograms", sparsity=0.4)
    """
    if not 0 <= sparsity < 1:
        raise UserError(f"sparsity must be in [0, 1); found {sparsity}.")
    config = model.config.get_text_config()
    if hasattr(config, KEY):
        raise UserError(
            "The inputs of this model's FFNs are cut already; begin with the model as it was."
        )
    thresholds: dict[str, list[float]] = {name: [] for name in PROJECTIONS}
    for layer in range(len(ffns(model))):
        counts = _histograms(Path(histograms) / f"layer-{layer}/mlp/histograms.pt")
        shares = _shares(lookup, layer, sparsity)
        for name, kind in HISTOGRAMS.items():
            threshold = _threshold(counts[kind], counts[f"{kind}_centers"], shares[name])
            thresholds[name].append(threshold)
    setattr(config, KEY, thresholds)
    try:
        cut_inputs(model)
    except UserError:
        delattr(config, KEY)
        raise


def _histograms(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file, read without running anything in it."""
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(
            f"There is no {path}; give TEAL's folder 'histograms' of this model."
        ) from None
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise UserError(f"{path} cannot be read as tensors: {error}".splitlines()[0]) from error
    wanted = [key for kind in ("h1", "h2") for key in (kind, f"{kind}_centers")]
    if not (
        isinstance(found, dict) and all(isinstance(found.get(key), torch.Tensor) for key in wanted)
    ):
        raise UserError(f"{path} is none of TEAL's: it must hold the tensors {', '.join(wanted)}.")
    return found


def _shares(lookup: str | Path | None, layer: int, sparsity: float) -> dict[str, float]:
    """Return the sparsity of each projection of a layer."""
    if lookup is None:
        return dict.fromkeys(PROJECTIONS, sparsity)
    path = Path(lookup) / f"layer-{layer}/results.csv"
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        row = min(rows, key=lambda row: abs(float(row[WANTED]) - sparsity))
        return {name: float(row[name]) for name in PROJECTIONS}
    except FileNotFoundError:
        raise UserError(f"There is no {path}; give TEAL's folder 'lookup' of this model.") from None
    except (KeyError, ValueError) as error:
        columns = ", ".join((WANTED, *PROJECTIONS))
        raise UserError(f"{path} is none of TEAL's: it needs rows of numbers {columns}.") from error


def _threshold(counts_B: Tensor, centers_B: Tensor, sparsity: float) -> float:
    """Return t such that a share `sparsity` has |x| <= t, if x is spread evenly around 0.

    That is the quantile (1 + sparsity) / 2, on straight lines between the B centers of the bins.
    """
    if sparsity == 0:
        return 0.0
    below_B = counts_B.cumsum(0)
    wanted = (0.5 + sparsity / 2) * below_B[-1]
    bin_ = int(torch.searchsorted(below_B, wanted))
    if bin_ == 0 or bin_ == len(centers_B):
        return max(0.0, float(centers_B[min(bin_, len(centers_B) - 1)]))
    share = (wanted - below_B[bin_ - 1]) / (below_B[bin_] - below_B[bin_ - 1])
    return max(0.0, float(centers_B[bin_ - 1] + share * (centers_B[bin_] - centers_B[bin_ - 1])))

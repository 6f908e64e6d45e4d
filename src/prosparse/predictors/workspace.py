# SPDX-License-Identifier: Apache-2.0
"""Where a fit works until it is done: `<out>.unfinished/`, and what a resume finds there."""

from __future__ import annotations

import json
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import safe_open
from safetensors.torch import save_file

from prosparse.errors import UserError
from prosparse.predictors.predictor import Predictor
from prosparse.records.files import refuse_existing, write_whole

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch


class FitWorkspace:
    """The working folder of one fit.

    Args:
        out: Where the predictors will stand.
        options: What tells this fit from another.
        resume: Go on with an unfinished fit if there is one.
        overwrite: Start anew over one, and replace `out` at the end.

    Raises:
        UserError: `out` exists, or an unfinished fit does and neither option was given, or it is one
            with other options.
    """

    def __init__(
        self, out: Path, options: dict[str, Any], *, resume: bool, overwrite: bool
    ) -> None:
        refuse_existing(out, overwrite)
        self.folder = out.with_name(out.name + ".unfinished")
        if self.folder.exists() and not resume:
            if not overwrite:
                raise UserError(
                    f"An unfinished fit is in {self.folder}; pass --resume to go on with it or "
                    "--overwrite to start again."
                )
            shutil.rmtree(self.folder)
        self._is_new = not self.folder.exists()
        self.folder.mkdir(parents=True, exist_ok=True)
        known = self.read("options")
        if known is None:
            self.write("options", options)
        elif known != options:
            changed = next(key for key in options if known.get(key) != options[key])
            raise UserError(
                f"The unfinished fit in {self.folder} has {changed} {known.get(changed)}, this one "
                f"{options[changed]}; give the same, or --overwrite to start again."
            )

    @contextmanager
    def kept_unless_refused(self) -> Iterator[None]:
        """Remove a folder made anew when what runs inside finds the user's mistake; nothing is in it yet."""
        try:
            yield
        except UserError:
            if self._is_new:
                self.remove()
            raise

    @property
    def pairs(self) -> Path:
        """Folder of the pairs."""
        return self.folder / "pairs"

    def read(self, name: str) -> Any:
        """Return what `write` wrote under a name; None if nothing."""
        path = self.folder / f"{name}.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None

    def write(self, name: str, value: Any) -> None:
        """Write a value of JSON under a name."""
        write_whole(self.folder / f"{name}.json", json.dumps(value, indent=1) + "\n")

    def add_seconds(self, name: str, seconds: float) -> float:
        """Add to what a part of the fit has taken, in this process or one before; return the sum."""
        known = self.read("seconds") or {}
        known[name] = known.get(name, 0.0) + seconds
        self.write("seconds", known)
        return known[name]

    def save_layer(self, layer: int, predictor: Predictor, epochs: int) -> None:
        """Keep the trained predictor of a layer."""
        path = self._path(layer)
        temporary = path.with_suffix(".part")
        tensors = {"fc1": predictor.fc1.cpu(), "fc2": predictor.fc2.cpu()}
        save_file(tensors, temporary, metadata={"epochs": str(epochs)})
        temporary.replace(path)

    def load_layer(self, layer: int, device: torch.device) -> tuple[Predictor, int] | None:
        """Return the trained predictor of a layer and its epoch; None if it is still to be trained."""
        path = self._path(layer)
        if not path.is_file():
            return None
        with safe_open(path, framework="pt", device=str(device)) as file:
            epochs = int((file.metadata() or {})["epochs"])
            return Predictor(file.get_tensor("fc1"), file.get_tensor("fc2")), epochs

    def remove(self) -> None:
        """Remove it all."""
        shutil.rmtree(self.folder)

    def _path(self, layer: int) -> Path:
        return self.folder / f"layer_{layer}.safetensors"

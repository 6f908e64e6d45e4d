# SPDX-License-Identifier: Apache-2.0
"""`prosparse sparsify`: the three steps of ProSparse on one model, and the proof beside it.

Each step is the public function of its station and leaves a whole folder behind, so a line that
was interrupted goes on with the first folder that is missing.
"""

from __future__ import annotations

import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from prosparse.errors import UserError
from prosparse.model.device import choose_device, provenance
from prosparse.records.files import (
    LOG_NAME,
    read_record,
    refuse_existing,
    write_record,
    write_whole,
)
from prosparse.records.lock import alone
from prosparse.records.run import Milestone, Sample, SparsifyRecord, TrainRecord
from prosparse.records.sparsity import Activation
from prosparse.reporting.page import report
from prosparse.runtime.generate import OnText, generate
from prosparse.thresholds.run import threshold
from prosparse.training.milestones import tell_again
from prosparse.training.recipe import Recipe
from prosparse.training.recipe_file import load_recipe
from prosparse.training.run import train
from prosparse.training.workspace import Interrupted, Workspace, finished_record

if TYPE_CHECKING:
    from collections.abc import Sequence

    from prosparse.records.threshold import ThresholdRecord
    from prosparse.thresholds.judge import OnCandidate
    from prosparse.training.milestones import OnMilestone


def sparsify(
    recipe: str | Path | Recipe,
    *,
    overrides: Sequence[str] = (),
    resume: bool = False,
    overwrite: bool = False,
    device: str = "auto",
    trust_remote_code: bool = False,
    on_milestone: OnMilestone | None = None,
    on_candidate: OnCandidate | None = None,
    on_text: OnText | None = None,
    progress: bool = True,
) -> SparsifyRecord:
    """Take a dense checkpoint through the whole line: relufy, train, shift the threshold.

    The folder `recipe.out` gets `model/` (the sparse checkpoint), `record.json`, `log.jsonl`,
    `recipe.yaml` and the report as HTML, Markdown and JSON. Until then the line is in `<out>.unfinished/`.

    Args:
        recipe: YAML file, or a `Recipe`; it needs `measure` and `threshold` sections.
        overrides: `key.path=value` each, applied to a YAML file.
        resume: Go on with an unfinished line, if there is one; of a finished one, only tell its
            milestones again.
        overwrite: Start again over an unfinished line, and replace `out` at the end.
        device: `auto`, `cpu` or `cuda`.
        trust_remote_code: Run modeling code that comes with the checkpoint.
        on_milestone: Called with each row of the line's table as it comes true.
        on_candidate: Called with each threshold tried.
        on_text: Called with each piece of the sample text as it is written.
        progress: Show progress bars.

    Raises:
        UserError: The recipe, the model or the data cannot be used, or `out` exists.
        KeyboardInterrupt: Ctrl-C; the message says how to go on.

    Example:
        >>> import prosparse as ps
        >>> record = ps.sparsify("recipes/demo.yaml", resume=True)
        >>> record.milestones[-1].sparsity
    """
    recipe = load_recipe(recipe, overrides)
    if recipe.measure is None or recipe.threshold is None:
        raise UserError(
            "sparsify needs 'measure' and 'threshold' sections in the recipe; to train without "
            "them use prosparse train."
        )
    if resume and isinstance(done := finished_record(recipe), SparsifyRecord):
        tell_again(done.milestones, on_milestone)
        return done
    # What can be known now should not be found out after hours, nor leave a folder behind.
    choose_device(device)
    recipe.check_inputs(trust_remote_code=trust_remote_code)
    refuse_existing(Path(recipe.out), overwrite)
    with alone(Path(recipe.out), wait=False):
        return _sparsify(
            recipe,
            Workspace(Path(recipe.out), overwrite=overwrite, resume=resume),
            device,
            trust_remote_code,
            on_milestone,
            on_candidate,
            on_text,
            progress,
        )


def _sparsify(
    recipe: Recipe,
    workspace: Workspace,
    device: str,
    trust_remote_code: bool,
    on_milestone: OnMilestone | None,
    on_candidate: OnCandidate | None,
    on_text: OnText | None,
    progress: bool,
) -> SparsifyRecord:
    workspace.pin_recipe(recipe)
    stopwatch = Stopwatch(workspace.folder / "elapsed.txt")

    def tell(milestone: Milestone) -> None:
        stopwatch.save()
        tell_again([milestone], on_milestone)

    try:
        with stopwatch:
            training = _trained(recipe, workspace, device, trust_remote_code, tell, progress)
            shifting = _shifted(
                recipe, workspace, device, trust_remote_code, on_candidate, progress
            )
            last = _last_milestone(training, shifting)
            tell(last)
            sample = _sample(recipe, workspace, device, trust_remote_code, on_text)
            record = SparsifyRecord(
                model=recipe.model,
                milestones=(*training.milestones, last),
                training=training,
                threshold=shifting,
                sample=sample,
                seconds=stopwatch.seconds(),
                provenance=provenance(choose_device(device), recipe.training.seed),
            )
            shutil.copy(workspace.folder / "trained" / LOG_NAME, workspace.folder)
            write_record(record, workspace.folder)
            report(workspace.folder)
    except KeyboardInterrupt:
        raise Interrupted(
            f"Stopped; the line is in {workspace.folder}. The same command with --resume goes on "
            "from there."
        ) from None
    shutil.rmtree(workspace.folder / "trained")
    workspace.finish()
    return record


def _trained(
    recipe: Recipe,
    workspace: Workspace,
    device: str,
    trust_remote_code: bool,
    tell: OnMilestone,
    progress: bool,
) -> TrainRecord:
    """Return the record of steps 1 and 2; when they are done, `train` only tells them again."""
    return train(
        replace(recipe, out=str(workspace.folder / "trained")),
        resume=True,
        device=device,
        trust_remote_code=trust_remote_code,
        on_milestone=tell,
        progress=progress,
    )


def _shifted(
    recipe: Recipe,
    workspace: Workspace,
    device: str,
    trust_remote_code: bool,
    on_candidate: OnCandidate | None,
    progress: bool,
) -> ThresholdRecord:
    """Return the record of step 3, running it unless its folder is there."""
    assert recipe.threshold is not None
    assert recipe.measure is not None
    folder = workspace.folder / "model"
    if folder.is_dir():
        record = cast("ThresholdRecord", read_record(folder))
        if on_candidate is not None:
            for candidate in record.candidates:
                on_candidate(candidate)
        return record
    return threshold(
        workspace.folder / "trained",
        recipe.measure.data,
        out=folder,
        candidates=recipe.threshold.candidates,
        max_perplexity_increase=recipe.threshold.max_perplexity_increase,
        tokens=recipe.measure.tokens,
        context_length=recipe.data.context_length,
        precision=recipe.training.precision,
        device=device,
        trust_remote_code=trust_remote_code,
        base=recipe.model,
        on_candidate=on_candidate,
        progress=progress,
    )


def _last_milestone(training: TrainRecord, shifting: ThresholdRecord) -> Milestone:
    """Return the row of the shifted model, from its measurement in the sweep."""
    chosen = shifting.chosen_candidate
    shifted = Activation("fatrelu", shifting.chosen) if shifting.chosen else Activation("relu")
    return Milestone(
        label=f"threshold {shifting.chosen:g}",
        activation=shifted,
        step=training.num_steps,
        factor=training.stages[-1].end_factor,
        tokens_seen=training.num_tokens,
        sparsity=chosen.sparsity,
        layer_sparsity=chosen.layer_sparsity,
        data=chosen.data,
    )


def _sample(
    recipe: Recipe,
    workspace: Workspace,
    device: str,
    trust_remote_code: bool,
    on_text: OnText | None,
) -> Sample | None:
    if recipe.sample is None:
        return None
    started = time.monotonic()
    text = generate(
        workspace.folder / "model",
        recipe.sample.prompt,
        max_new_tokens=recipe.sample.tokens,
        device=device,
        trust_remote_code=trust_remote_code,
        on_text=on_text,
    )
    return Sample(recipe.sample.prompt, text, time.monotonic() - started)


class Stopwatch:
    """Seconds of the line, kept on disk so that a resumed line counts its earlier parts.

    A part that is killed counts up to its last milestone.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._before = float(path.read_text(encoding="utf-8")) if path.is_file() else 0.0
        self._started = time.monotonic()

    def seconds(self) -> float:
        """Return the seconds so far."""
        return self._before + time.monotonic() - self._started

    def save(self) -> None:
        """Write the seconds down."""
        write_whole(self._path, str(self.seconds()))

    def __enter__(self) -> Stopwatch:
        return self

    def __exit__(self, failure: type[BaseException] | None, *_: object) -> None:
        if failure is None:
            self._path.unlink(missing_ok=True)
        else:
            self.save()

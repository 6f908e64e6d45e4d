# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
import torch

from prosparse.benchmarking import plan
from prosparse.benchmarking.plan import choose_backends, count_copies, plan_cases
from prosparse.errors import UserError
from prosparse.model.shapes import Shape, parse_shapes
from prosparse.records.speed import NotRun

TINY = (Shape("tiny", 64, 192),)


def spoken(cases):
    return [(case.mask.name, case.sparsity, case.num_tokens) for case in cases]


def test_masks_by_sparsity_first_then_the_batch_sweep():
    cases = plan_cases(["random", "clustered"], [0.5, 0.9], [1, 4], TINY)
    assert spoken(cases) == [
        ("random", 0.5, 1),
        ("random", 0.9, 1),
        ("clustered", 0.5, 1),
        ("clustered", 0.9, 1),
        ("random", 0.9, 4),
    ]


def test_a_real_mask_runs_once_for_each_number_of_tokens(tmp_path):
    np.save(tmp_path / "real.npy", np.eye(192))
    cases = plan_cases(["random", str(tmp_path / "real.npy")], [0.5, 0.9], [1, 4], TINY)
    assert [case.num_tokens for case in cases if case.mask.name == "real.npy"] == [1, 4]
    with pytest.raises(UserError, match="192 neurons"):
        plan_cases([str(tmp_path / "real.npy")], None, None, parse_shapes(["64x200"]))


def test_nothing_given_means_the_whole_sweep_and_less_when_quick():
    full, quick = (plan_cases(None, None, None, TINY, quick) for quick in (False, True))
    assert len(full) == 2 * 7 + 4
    assert len(quick) == 3


@pytest.mark.parametrize(
    ("masks", "sparsity", "tokens", "complaint"),
    [
        ([], None, None, "--mask is empty"),
        (None, [], None, "--sparsity is empty"),
        (None, [1.5], None, r"--sparsity must be in \[0, 1\]; found 1.5"),
        (None, [float("nan")], None, "--sparsity must be"),
        (None, None, [17], "--tokens must be 1 to 16; found 17"),
        (None, None, [0], "--tokens must be"),
        (["even"], None, None, "--mask must be random"),
    ],
)
def test_mistakes_are_user_errors(masks, sparsity, tokens, complaint):
    with pytest.raises(UserError, match=complaint):
        plan_cases(masks, sparsity, tokens, TINY)


def test_copies_fill_many_caches_and_fit_into_memory(monkeypatch):
    cuda = torch.device("cuda")
    monkeypatch.setattr(plan, "cache_bytes", lambda device: 50 * 2**20)
    monkeypatch.setattr(plan, "free_bytes", lambda device: 80_000_000_000)
    (big,) = parse_shapes(["llama2-7b"])
    (small,) = parse_shapes(["smollm2-135m"])
    assert count_copies(big, torch.bfloat16, cuda) == 32
    assert count_copies(small, torch.bfloat16, cuda) == 192
    monkeypatch.setattr(plan, "free_bytes", lambda device: 8_000_000_000)
    assert count_copies(big, torch.bfloat16, cuda) == 5
    monkeypatch.setattr(plan, "free_bytes", lambda device: 2_000_000_000)
    with pytest.raises(UserError, match="choose a smaller --shape"):
        count_copies(big, torch.bfloat16, cuda)


def test_on_a_cpu_the_reference_stands_in(monkeypatch):
    monkeypatch.setattr(plan, "why_not", lambda backend, device: "No compiler.")
    backends, missing = choose_backends(torch.device("cpu"))
    assert backends == ("reference",)
    assert missing == [NotRun("backend cpu", "No compiler.")]
    monkeypatch.setattr(plan, "why_not", lambda backend, device: None)
    assert choose_backends(torch.device("cpu")) == (("cpu",), [])

# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
import torch

from prosparse.benchmarking.masks import RUN_LENGTH, Mask, parse_mask
from prosparse.errors import UserError


@pytest.mark.parametrize("name", ["random", "clustered"])
@pytest.mark.parametrize(("sparsity", "active"), [(0.0, 1000), (0.5, 500), (0.893, 107), (1.0, 0)])
def test_every_token_has_the_exact_count(name, sparsity, active):
    mask = Mask(name).draw(3, 1000, sparsity, index=0, seed=1)
    assert mask.shape == (3, 1000)
    assert mask.sum(dim=1).tolist() == [active] * 3


def test_copies_and_tokens_have_masks_of_their_own_and_seeds_repeat():
    draws = [Mask("random").draw(2, 500, 0.5, index, seed=1) for index in (0, 1)]
    assert not torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0][0], draws[0][1])
    assert torch.equal(draws[0], Mask("random").draw(2, 500, 0.5, 0, seed=1))


def test_clusters_are_runs_of_neighbors():
    mask = Mask("clustered").draw(1, 64 * RUN_LENGTH, 0.75, index=0, seed=1)[0]
    runs = mask.view(-1, RUN_LENGTH).sum(dim=1)
    assert sorted(runs.unique().tolist()) == [0, RUN_LENGTH]


def test_a_file_gives_its_rows_in_order_and_starts_again(tmp_path):
    values = np.array([[0, 1.5, -2], [0, 0, 0], [3, 0, 0]], dtype=np.float32)
    np.save(tmp_path / "real.npy", values)
    mask = parse_mask(str(tmp_path / "real.npy"))
    assert mask.name == "real.npy"
    assert mask.draw(2, 3, 0.5, index=1, seed=0).tolist() == [
        [True, False, False],
        [False, True, True],
    ]


def test_wrong_masks_are_user_errors(tmp_path):
    np.save(tmp_path / "flat.npy", np.zeros(3))
    np.save(tmp_path / "objects.npy", np.array([[{}]]), allow_pickle=True)
    (tmp_path / "text.npy").write_text("hello")
    for name in ("even", tmp_path / "none.npy", *sorted(tmp_path.glob("*.npy"))):
        with pytest.raises(UserError, match="--mask"):
            parse_mask(str(name))

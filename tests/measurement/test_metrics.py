# SPDX-License-Identifier: Apache-2.0
"""`ps.measure` with a metric: what weak neurons give and cost."""

import dataclasses
import math

import pytest
import torch

import prosparse as ps
from prosparse.data.sources import Source
from prosparse.measurement import metrics
from prosparse.measurement.metrics import Comparison
from prosparse.measurement.passes import Passes
from prosparse.measurement.perplexity import mean_and_stderr
from prosparse.measurement.run import read_windows
from prosparse.records.files import read_record
from tests.measurement.activations import intermediates

SHORT = {
    "tokens": 256,
    "context_length": 32,
    "precision": "float32",
    "device": "cpu",
    "progress": False,
}
SETTINGS = [
    {"metric": "fat", "epsilon": 0.05},
    {"metric": "topk", "k": 0.5},
    {"metric": "cett", "cett": 0.2},
]


@pytest.fixture
def passes(checkpoint, texts):
    tokenizer = ps.load_tokenizer(checkpoint)
    sources = {name: Source(str(path)) for name, path in texts.items()}
    return Passes(ps.load(checkpoint), read_windows(sources, tokenizer, 32, 256), "float32")


@torch.no_grad()
def losses_by_hand(model, passes, threshold_of_layer=None) -> list[torch.Tensor]:
    """Return the windows' losses with an own, plain pruning in the modules' forward."""
    for layer, thresholds in zip(model.model.layers, threshold_of_layer or (), strict=False):
        mlp, norms = layer.mlp, layer.mlp.down_proj.weight.norm(dim=0)

        def forward(x, mlp=mlp, norms=norms, threshold=thresholds):
            x1 = mlp.act_fn(mlp.gate_proj(x)) * mlp.up_proj(x)
            x1[x1.abs() * norms < threshold] = 0
            return mlp.down_proj(x1)

        mlp.forward = forward
    return [
        torch.stack([model(input_ids=w[None], labels=w[None]).loss for w in windows.ids_WS])
        for windows in passes.held_out
    ]


@pytest.mark.parametrize("options", SETTINGS, ids=lambda options: options["metric"])
def test_a_dense_model_is_sparse_under_a_metric(options, checkpoint, texts, tmp_path):
    record = ps.measure(checkpoint, texts, **options, **SHORT, out=tmp_path / "out")
    assert read_record(tmp_path / "out") == record
    assert record.metric is not None
    point = record.metric.point
    assert 0.02 < record.sparsity == point.sparsity < 0.98
    assert record.layer_sparsity == point.layer_sparsity
    dense = ps.measure(checkpoint, texts, **SHORT)
    assert record.metric.dense_perplexity == tuple(m.perplexity for m in dense.data)
    by_hand = [m.loss - d.loss for m, d in zip(record.data, dense.data, strict=True)]
    increase = math.expm1(sum(by_hand) / len(by_hand))
    assert point.perplexity_increase == pytest.approx(increase, rel=1e-6, abs=1e-9)


def test_top_k_is_as_sparse_as_it_is_told(checkpoint, texts):
    record = ps.measure(checkpoint, texts, metric="topk", k=0.25, **SHORT)
    # The separator of documents is padding: its embedding is zero, and so is its x_1.
    assert record.layer_sparsity == pytest.approx((0.75, 0.75), abs=0.01)


def test_cett_and_its_perplexity_by_a_plain_implementation(passes, checkpoint):
    comparison = Comparison(passes)
    point = comparison.point("cett", 0.2)
    found = comparison.summary(point, None, True)
    assert all(error <= 0.2 for error in found.layer_errors)
    plain = losses_by_hand(ps.load(checkpoint), passes)
    pruned = losses_by_hand(ps.load(checkpoint), passes, found.layer_thresholds)
    pairs = [mean_and_stderr((a - b).double()) for a, b in zip(pruned, plain, strict=True)]
    mean = sum(difference for difference, _ in pairs) / 2
    assert point.perplexity_increase == pytest.approx(math.expm1(mean), abs=1e-6)
    stderr = math.exp(mean) * math.hypot(*(error for _, error in pairs)) / 2
    assert point.perplexity_increase_stderr == pytest.approx(stderr, abs=1e-6)


@pytest.mark.parametrize("budget", [0.005, 0.01])
def test_the_largest_cett_within_the_budget(budget, checkpoint, texts):
    record = ps.measure(
        checkpoint, texts, metric="cett-ppl", max_perplexity_increase=budget, **SHORT
    )
    found = record.metric
    assert found is not None
    assert found.is_met
    assert found.max_perplexity_increase == budget
    assert found.point.perplexity_increase <= budget
    within = [p for p in record.points if p.perplexity_increase <= budget]
    beyond = [p for p in record.points if p.perplexity_increase > budget]
    assert found.point in within
    assert found.point.setting == max(p.setting for p in within)
    assert all(p.setting > found.point.setting for p in beyond)
    assert found.calibration_tokens == 2 * 256


def search_of(passes, monkeypatch, increase_of):
    comparison = Comparison(passes)
    template = comparison.judge("cett", 0.5, comparison.dense)

    def point(metric, setting):
        increase = increase_of(setting)
        return dataclasses.replace(template, setting=setting, perplexity_increase=increase)

    monkeypatch.setattr(comparison, "point", point)
    return comparison.search(0.01)


def test_bisection_finds_the_edge_of_the_budget(passes, monkeypatch):
    setting, is_met, points = search_of(passes, monkeypatch, lambda cett: cett**2)
    assert is_met
    assert 0.0095 <= setting**2 <= 0.01
    assert len(points) < metrics.SEARCH_STEPS


def test_a_budget_that_nothing_meets_leaves_the_model_as_it_is(passes, monkeypatch):
    setting, is_met, points = search_of(passes, monkeypatch, lambda cett: 1.0)
    assert (setting, is_met) == (0.0, False)
    assert len(points) == metrics.SEARCH_STEPS


def test_a_budget_that_everything_meets_is_said_to_have_no_edge(passes, monkeypatch):
    setting, is_met, _ = search_of(passes, monkeypatch, lambda cett: -0.5)
    assert setting > 0.99
    assert not is_met


def test_compare_measures_all_three_and_stops_where_a_model_is_ruined(
    checkpoint, texts, monkeypatch
):
    settings = (("fat", (0.01, 0.1)), ("topk", (0.9, 0.5)), ("cett", (0.05, 0.3)))
    monkeypatch.setattr(metrics, "COMPARED", settings)
    record = ps.measure(checkpoint, texts, metric="compare", detail=True, **SHORT)
    assert record.metric is None
    assert record.sparsity < 0.02  # the model as it is
    assert record.activity is not None
    assert [(p.metric, p.setting) for p in record.points] == [
        (name, value) for name, values in settings for value in values
    ]
    assert all(0 < p.sparsity < 1 for p in record.points)
    monkeypatch.setattr(metrics, "RUINED", -1.0)
    record = ps.measure(checkpoint, texts, metric="compare", **SHORT)
    assert [p.setting for p in record.points] == [0.01, 0.9, 0.05]


def test_distributions_are_of_the_pruned_model(checkpoint, texts):
    record = ps.measure(checkpoint, texts, metric="topk", k=0.25, detail=True, **SHORT)
    assert record.activity is not None
    one_token = [shares[0] for shares in record.activity.span_union]
    assert one_token == pytest.approx([0.25, 0.25], abs=0.01)


def test_the_model_comes_back_as_it_was(checkpoint, texts):
    model = ps.load(checkpoint)
    ids = torch.arange(1, 25)[None]
    before = intermediates(model, ids)
    ps.measure(model, texts, metric="cett", cett=0.3, **SHORT)
    assert all(map(torch.equal, intermediates(model, ids), before))


def test_a_model_of_nan_cannot_be_judged(checkpoint, texts):
    model = ps.load(checkpoint)
    model.model.layers[0].mlp.up_proj.weight.data[0, 0] = math.nan
    with pytest.raises(ps.UserError, match="loss on 'prose' is not a finite number"):
        ps.measure(model, texts, metric="topk", k=0.5, **SHORT)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metric": "fatty"}, "--metric must be one of fat, topk, cett, cett-ppl, compare; found"),
        ({"metric": "fat"}, "--metric fat needs --epsilon"),
        ({"metric": "topk", "cett": 0.1}, "--cett 0.1 does not apply to --metric topk"),
        ({"epsilon": 0.1}, r"--epsilon 0.1 does not apply to --metric \(none\)"),
        ({"metric": "fat", "epsilon": 0}, "--epsilon must be a finite number above 0; found 0"),
        ({"metric": "fat", "epsilon": math.inf}, "--epsilon must be a finite number above 0"),
        ({"metric": "topk", "k": 2}, "--k must be above 0 and at most 1; found 2"),
        ({"metric": "cett", "cett": math.nan}, "--cett must be above 0 and at most 1; found nan"),
        ({"metric": "cett-ppl", "max_perplexity_increase": 0}, "must be > 0; found 0"),
    ],
)
def test_settings_that_make_no_sense(options, message, texts, checkpoint, monkeypatch):
    monkeypatch.setattr("prosparse.measurement.run.load", pytest.fail)
    with pytest.raises(ps.UserError, match=message):
        ps.measure(checkpoint, texts, **options, **SHORT)

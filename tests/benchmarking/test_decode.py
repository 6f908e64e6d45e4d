# SPDX-License-Identifier: Apache-2.0
"""The decode benchmark on a CPU: all of its logic, on sizes where times mean nothing."""

import contextlib
import dataclasses

import pytest
import torch

from prosparse.benchmarking import decode as verb
from prosparse.benchmarking import decode_contenders as registry
from prosparse.benchmarking.decode import bench_decode
from prosparse.benchmarking.decode_check import dense_decode
from prosparse.benchmarking.decode_contenders import decode_contenders, own_loop
from prosparse.benchmarking.decode_parts import attention_names, bare
from prosparse.benchmarking.decode_runner import with_speedups
from prosparse.benchmarking.decode_runs import Decoded, endless, stock_decode
from prosparse.errors import UserError
from prosparse.kernels.backend import choose_backend, implementation, use_backend
from prosparse.model import shapes
from prosparse.records.files import read_record
from prosparse.runtime.accelerate import accelerate, is_accelerated
from tests.conftest import tiny_llama
from tests.runtime.models import relu_model

OPTIONS = {"device": "cpu", "quick": True, "tokens": 6, "compiled": False}
HAS_KERNELS = choose_backend(torch.device("cpu")) == "cpu"
BY_ROWS = ["dense by our rows, our loop"] if HAS_KERNELS else []
ONE_CALL = ["sparse, one call"] if HAS_KERNELS else []
PROMPT = torch.tensor([[5, 9, 30, 2]])


@pytest.fixture
def model():
    return tiny_llama(hidden_act="relu")


@pytest.fixture
def tiny_shape(monkeypatch):
    tiny = shapes.Shape("tiny", 64, 192, 2, 4, 2, 128)  # a screen needs 64
    monkeypatch.setitem(shapes.SHAPES, "tiny", tiny)
    return "tiny"


@pytest.fixture
def enter(monkeypatch):
    """Return a function that puts a sparse contender of a given decode into the contest."""

    def put(decode):
        @contextlib.contextmanager
        def setup(model, max_length):
            with accelerate(model, max_tokens=1):
                yield decode(model)

        def more(device, compiled, weight_bits):
            found = decode_contenders(device, compiled, weight_bits)
            return [*found, dataclasses.replace(found[-1], name="mine", setup=setup)]

        monkeypatch.setattr(verb, "decode_contenders", more)

    return put


def test_random_weights_from_shape_to_record(tiny_shape, tmp_path):
    seen = []
    record = bench_decode(
        shape=tiny_shape,
        dtype="float32",
        sparsity=0.8,
        out=tmp_path / "out",
        on_row=seen.append,
        **OPTIONS,
    )
    assert [row.contender for row in record.rows] == [
        "transformers generate", "dense, our loop", *BY_ROWS, "sparse, our loop", *ONE_CALL,
    ]  # fmt: skip
    assert record.not_run == ()
    for row in record.rows:
        assert row.check.first_difference is None
        assert row.check.num_tokens == 6
        assert 0 < row.ms_p10 <= row.ms <= row.ms_p90
    by_name = {row.contender: row for row in record.rows}
    dense, sparse = by_name["dense, our loop"], by_name["sparse, our loop"]
    assert sparse.ms == pytest.approx(sparse.attention_ms + sparse.rest_ms + sparse.ffn_ms)
    assert dense.attention_ms == sparse.attention_ms
    assert record.rows[0].ffn_ms is None
    assert record.sparsity == pytest.approx(0.8, abs=0.1)
    assert sparse.speedup == pytest.approx(record.fastest_dense.ms / sparse.ms)
    skipped = record.dense_mb - sparse.mb
    assert skipped == pytest.approx(record.sparsity * record.ffn_mb * 2 / 3)
    assert [check.kind for check in record.exactness] == ["sparse"]
    for check in record.exactness:
        assert check.num_neurons == 2 * 5 * 192
        assert (check.num_differing, check.is_wrong) == (0, False)
    assert "computed in float64" in record.bound_method
    assert len(seen) == len(record.rows)
    assert read_record(tmp_path / "out") == record


def test_a_checkpoint_with_its_own_threshold_and_a_prompt(relu_checkpoint, texts):
    record = bench_decode(relu_checkpoint, prompt="def", **OPTIONS)
    assert record.model == relu_checkpoint.name  # not where it lay
    assert not record.is_random
    assert record.asked_sparsity is None
    assert (record.prompt_tokens, record.new_tokens) == (3, 6)
    assert all(not row.check.is_wrong for row in record.rows)
    from_text = bench_decode(relu_checkpoint, data=texts["prose"], **OPTIONS)
    assert from_text.prompt_tokens == 64


def test_wrong_tokens_get_no_time(tiny_shape, enter):
    enter(lambda model: lambda prompt, n: Decoded([1] * n, [0.001] * (n - 1)))
    record = bench_decode(shape=tiny_shape, dtype="float32", **OPTIONS)
    wrong = record.rows[-1]
    assert wrong.contender == "mine"
    assert wrong.check.is_wrong
    assert (wrong.ms, wrong.tokens_per_second, wrong.speedup) == (None, None, None)
    assert record.fastest_sparse.contender in ("sparse, our loop", *ONE_CALL)


def test_right_tokens_of_wrong_logits_get_no_time(tiny_shape, monkeypatch):
    module = implementation(torch.device("cpu"))
    # The CPU's has a way of its own for weights that it has seen before.
    name = "sparse_ffn_of" if hasattr(module, "sparse_ffn_of") else "sparse_ffn"
    right = getattr(module, name)
    monkeypatch.setattr(module, name, lambda *given: 1.0001 * right(*given))
    record = bench_decode(shape=tiny_shape, dtype="float32", **OPTIONS)
    assert all(check.is_wrong and check.num_differing == 0 for check in record.exactness)
    for row in record.rows:
        assert not row.check.is_wrong
        assert row.is_wrong is (not row.is_dense)
    assert record.fastest_sparse is None


def test_a_contender_that_fails_costs_only_itself(tiny_shape, enter):
    def fail(model):
        raise RuntimeError("no graph here")

    enter(fail)
    record = bench_decode(shape=tiny_shape, dtype="float32", **OPTIONS)
    (item,) = record.not_run
    assert (item.contender, item.is_failure) == ("mine", True)
    assert len(record.rows) == 3 + len(BY_ROWS + ONE_CALL)


def test_a_loop_that_refuses_the_model_is_no_failure(tiny_shape, enter):
    def refuse(model):
        raise UserError("not this one.")

    enter(refuse)
    (item,) = bench_decode(shape=tiny_shape, dtype="float32", **OPTIONS).not_run
    assert (item.reason, item.is_failure) == ("not this one.", False)


def test_a_dense_model_is_refused(checkpoint):
    with pytest.raises(UserError, match="no zeros to skip"):
        bench_decode(checkpoint, **OPTIONS)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"tokens": 1}, "--tokens must be at least 2"),
        ({"sparsity": 2.0}, "--sparsity must be in"),
        ({"dtype": "int8"}, "--dtype must be one of"),
        ({"prompt": "hello"}, "--prompt and --data are for a MODEL"),
        ({"shape": "64x192"}, "--shape must be one of"),
    ],
)
def test_mistakes_are_user_errors(options, complaint):
    with pytest.raises(UserError, match=complaint):
        bench_decode(**{"device": "cpu", **options})


def test_the_dense_decode_is_that_of_generate(model):
    dense = dense_decode(model, PROMPT, 8)
    with endless(model):
        assert stock_decode(model, None)(PROMPT, 8).tokens == dense.tokens
        with own_loop(False)(model, 12) as decode:
            run = decode(PROMPT, 8)
    assert run.tokens == dense.tokens
    assert len(run.step_ms) == 7


def test_parts_are_taken_out_and_put_back(model):
    before = model(input_ids=PROMPT).logits
    with bare(model, keep_attention=True):
        no_ffn = model(input_ids=PROMPT).logits
    with bare(model, keep_attention=False):
        neither = model(input_ids=PROMPT).logits
        alone = model(input_ids=PROMPT[:, -1:]).logits
    assert torch.equal(model(input_ids=PROMPT).logits, before)
    assert not torch.equal(no_ffn, before)
    torch.testing.assert_close(neither[:, -1:], alone)  # no token sees another
    assert attention_names(model) == ["model.layers.0.self_attn", "model.layers.1.self_attn"]


def test_speedups_are_over_the_fastest_dense_row(tiny_shape):
    with use_backend("reference"):
        record = bench_decode(shape=tiny_shape, dtype="float32", **OPTIONS)
    timed = [
        dataclasses.replace(row, ms=ms) for row, ms in zip(record.rows, (9, 6, 3), strict=True)
    ]
    assert [row.speedup for row in with_speedups(timed)] == pytest.approx([2 / 3, 1, 2])


def test_compiled_contenders_are_for_where_there_is_a_compiler(monkeypatch):
    def names(kind, compiled):
        return [c.name for c in decode_contenders(torch.device(kind), compiled)]

    assert len(names("cuda", True)) == len(names("cuda", False)) + 5
    apart = [c.name for c in decode_contenders(torch.device("cuda"), True) if c.is_own_loop]
    assert apart == ["dense, our loop, compiled", "sparse, our loop, compiled"]
    assert registry.COMPILE_MODES["cuda"].endswith("no-cudagraphs")
    monkeypatch.setattr(registry, "can_compile", lambda device: False)
    assert names("cpu", True) == names("cpu", False)
    monkeypatch.setattr(registry, "can_compile", lambda device: True)
    assert set(names("cpu", True)) > {*names("cpu", False), "sparse, our loop, compiled"}


def test_without_the_cpu_kernels_nothing_is_read_by_rows():
    with use_backend("reference"):
        found = decode_contenders(torch.device("cpu"), compiled=False)
    absent = ("rows", "screened", "one call")
    assert not [c for c in found if any(word in c.name for word in absent)]


def test_what_is_no_llama_says_why_it_takes_no_call():
    qwen = relu_model("qwen3")
    for contender in decode_contenders(torch.device("cpu"), compiled=False):
        if "one call" in contender.name:
            with pytest.raises(UserError, match="Only a Llama"), contender.setup(qwen, 12):
                pass
    assert not is_accelerated(qwen)


@pytest.mark.parametrize("bits", [8, 4])
def test_quantized_on_a_cpu_whatever_the_dtype(tiny_shape, bits):
    record = bench_decode(shape=tiny_shape, dtype="float32", weight_bits=bits, **OPTIONS)
    assert [row.contender for row in record.rows] == ["sparse, our loop", *ONE_CALL]
    assert not record.rows[0].is_wrong

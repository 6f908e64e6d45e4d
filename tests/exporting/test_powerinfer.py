# SPDX-License-Identifier: Apache-2.0
"""PowerInfer's file, read back: names, shapes, types, values; and what it cannot express."""

import numpy as np
import pytest
import torch

import prosparse as ps
from prosparse.errors import UserError
from prosparse.exporting.powerinfer import exported_predictors, write_powerinfer
from prosparse.model.activation import make_activation
from prosparse.model.ffn import ffns
from prosparse.model.relufy import relufy_in_place
from prosparse.predictors.predictor import Predictor, Predictors
from tests.conftest import byte_tokenizer, tiny_llama
from tests.exporting.reading import read

D, F, LAYERS = 32, 64, 2
NORMS = {"output_norm", "attn_norm", "ffn_norm"}


def model(**overrides):
    network = tiny_llama(hidden_act="relu", intermediate_size=F, **overrides)
    torch.manual_seed(1)
    for name, parameter in network.named_parameters():
        if "norm" in name:
            parameter.data = torch.rand_like(parameter) + 0.5
    return network


def predictors(cut=0.0, reads="ffn-input"):
    torch.manual_seed(2)
    return Predictors(
        [Predictor(torch.randn(r, D), torch.randn(F, r), cut) for r in (8, 12)], reads
    )


def written(tmp_path, network=None, type="f16", **options):
    path = tmp_path / "tiny.powerinfer.gguf"
    write_powerinfer(
        network or model(), byte_tokenizer(), predictors(**options), path, name="tiny", type=type
    )
    return path


def test_magic_and_keys(tmp_path):
    path = written(tmp_path)
    assert path.read_bytes()[:8] == b"PWRI\x03\x00\x00\x00"
    keys, _ = read(path)
    expected = {
        "general.architecture": "llama",
        "general.name": "tiny",
        "llama.context_length": 256,
        "llama.embedding_length": D,
        "llama.block_count": LAYERS,
        "llama.feed_forward_length": F,
        "llama.attention.head_count": 4,
        "llama.attention.head_count_kv": 2,
        "llama.rope.dimension_count": 8,
        "llama.rope.freq_base": 10000.0,
        "llama.vocab_size": 257,
        "powerinfer.sparse_threshold": 0.0,
        "prosparse.hidden_act": "relu",
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.eos_token_id": 0,
    }
    assert {key: keys[key] for key in expected} == expected
    assert keys["llama.attention.layer_norm_rms_epsilon"] == pytest.approx(1e-6)
    assert len(keys["tokenizer.ggml.tokens"]) == 257


def test_names_shapes_and_types(tmp_path):
    _, tensors = read(written(tmp_path))
    shapes = {
        "token_embd": (257, D), "output_norm": (D,), "output": (257, D),
        "attn_norm": (D,), "attn_q": (D, D), "attn_k": (16, D), "attn_v": (16, D),
        "attn_output": (D, D), "ffn_norm": (D,),
        "ffn_gate": (F, D), "ffn_up": (F, D), "ffn_down_t": (F, D),
    }  # fmt: skip
    expected = {f"{name}.weight": shapes[name] for name in ("token_embd", "output_norm", "output")}
    for layer, rank in enumerate((8, 12)):
        of_layer = {name: shape for name, shape in shapes.items() if name[:4] in ("attn", "ffn_")}
        of_layer |= {"fc1": (rank, D), "fc2": (F, rank)}
        expected |= {f"blk.{layer}.{name}.weight": shape for name, shape in of_layer.items()}
    assert {name: shape for name, (_, shape, _) in tensors.items()} == expected
    for name, (type_, _, _) in tensors.items():
        assert type_ == ("F32" if name.split(".")[-2] in NORMS else "F16")


def test_values(tmp_path):
    network = model()
    _, tensors = read(written(tmp_path, network))
    for layer, ffn in enumerate(ffns(network)):
        for name, own in (("gate", "gate_proj"), ("up", "up_proj"), ("down_t", "down_proj")):
            weight = ffn.weights()[own].detach()
            weight = weight.T if name == "down_t" else weight
            found = tensors[f"blk.{layer}.ffn_{name}.weight"][2]
            assert np.array_equal(found, weight.half().float().numpy())
    embedding = network.model.embed_tokens.weight.detach().half().float().numpy()
    assert np.array_equal(tensors["token_embd.weight"][2], embedding)


def test_queries_and_keys_are_rotated_as_ggml_rotates(tmp_path):
    """Rotating neighboring pairs of the exported rows gives the scores of rotating halves of ours."""
    network = model()
    _, tensors = read(written(tmp_path, network, type="f32"))
    x = torch.randn(D)
    attention = network.model.layers[0].self_attn
    angle = torch.tensor(3.0) / 10000.0 ** (torch.arange(4) / 4)  # position 3, head_dim 8
    for name, projection, heads in (("q", attention.q_proj, 4), ("k", attention.k_proj, 2)):
        ours = (projection.weight @ x).detach().view(heads, 2, 4)  # halves
        turned = torch.stack([
            ours[:, 0] * angle.cos() - ours[:, 1] * angle.sin(),
            ours[:, 1] * angle.cos() + ours[:, 0] * angle.sin(),
        ], dim=1)  # fmt: skip
        exported = torch.tensor(tensors[f"blk.0.attn_{name}.weight"][2])
        theirs = (exported @ x).view(heads, 4, 2)  # pairs
        pairs = torch.stack([
            theirs[..., 0] * angle.cos() - theirs[..., 1] * angle.sin(),
            theirs[..., 1] * angle.cos() + theirs[..., 0] * angle.sin(),
        ], dim=2)  # fmt: skip
        assert torch.allclose(pairs.transpose(1, 2), turned, atol=1e-5)


def test_the_files_predictors_choose_our_neurons_from_the_residual(tmp_path):
    network, own = model(), predictors()
    _, tensors = read(written(tmp_path, network, type="f32"))
    h = 30 * torch.randn(200, D)
    for layer, predictor in enumerate(own.layers):
        norm = network.model.layers[layer].post_attention_layernorm
        fc1, fc2 = (torch.from_numpy(tensors[f"blk.{layer}.{n}.weight"][2]) for n in ("fc1", "fc2"))
        with torch.no_grad():
            expected = predictor.predicts(norm(h))
        assert torch.equal((h @ fc1.T).relu() @ fc2.T >= 0, expected)
        assert fc1.norm(dim=1).numpy() == pytest.approx(np.ones(len(fc1)), rel=1e-5)


def test_imported_predictors_keep_their_threshold(tmp_path):
    keys, tensors = read(written(tmp_path, type="f32", cut=0.25, reads="residual"))
    assert keys["powerinfer.sparse_threshold"] == 0.25
    h = torch.randn(100, D)
    fc1, fc2 = (torch.from_numpy(tensors[f"blk.0.{n}.weight"][2]) for n in ("fc1", "fc2"))
    expected = predictors(0.25, "residual").layers[0].predicts(h)
    assert torch.equal((h @ fc1.T).relu() @ fc2.T >= 0.25, expected)


def test_q4_0_is_for_the_ffn_alone(tmp_path):
    network = model()
    _, tensors = read(written(tmp_path, network, type="q4_0"))
    for name, (type_, shape, values) in tensors.items():
        part = name.split(".")[-2]
        is_ffn = part in ("ffn_gate", "ffn_up", "ffn_down_t")
        assert type_ == ("Q4_0" if is_ffn else "F32" if part in NORMS else "F16")
        assert values.shape == shape
    gate = ffns(network)[0].weights()["gate_proj"].detach().numpy()
    found = tensors["blk.0.ffn_gate.weight"][2]
    step = np.abs(gate.reshape(F, -1, 32)).max(axis=2, keepdims=True) / 8
    assert (np.abs((found - gate).reshape(F, -1, 32)) <= 1.05 * step + 1e-3).all()


def test_a_tied_head_is_written_out(tmp_path):
    _, tensors = read(written(tmp_path, model(tie_word_embeddings=True)))
    assert np.array_equal(tensors["output.weight"][2], tensors["token_embd.weight"][2])


def test_thresholds_are_refused_and_may_be_left_out(tmp_path):
    network = model()
    relufy_in_place(network, make_activation("fatrelu", threshold=0.01))
    with pytest.raises(UserError, match=r"FATReLU with a threshold of 0\.01.*--unshifted"):
        written(tmp_path, network)
    relufy_in_place(network, make_activation("fatrelu", threshold=0.0))
    written(tmp_path, network)


@pytest.mark.parametrize(
    ("activation", "found"),
    [
        (make_activation("shifted_relu", bias=0.1), "ShiftedReLU"),
        (make_activation("drelu"), "DReLU"),
    ],
)
def test_other_activations_are_refused(tmp_path, activation, found):
    network = model()
    relufy_in_place(network, activation)
    with pytest.raises(UserError, match=f"is {found}, and PowerInfer's llama graph computes ReLU"):
        written(tmp_path, network)


def test_cuts_that_the_file_cannot_hold():
    own = predictors()
    mixed = Predictors([own.layers[0], Predictor(own.layers[1].fc1, own.layers[1].fc2, 1.0)])
    with pytest.raises(UserError, match=r"one threshold for all layers.*from 0 to 1.*--zero-cuts"):
        exported_predictors(model(), mixed)
    with pytest.raises(UserError, match=r"same only with a cut of 0"):
        exported_predictors(model(), predictors(cut=0.5))


@pytest.mark.parametrize(
    ("overrides", "found"),
    [
        ({"attention_bias": True}, "biases"),
        ({"head_dim": 4}, "heads of 4 entries"),
        (
            {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}},
            "'linear'",
        ),
    ],
)
def test_other_llamas_are_refused(tmp_path, overrides, found):
    with pytest.raises(UserError, match=found):
        written(tmp_path, model(**overrides))


def test_from_end_to_end(relu_checkpoint, texts, tmp_path):
    fit = tmp_path / "predictors"
    small = {"rows": 400, "context_length": 32, "epochs": 1, "progress": False}
    ps.fit_predictors(relu_checkpoint, texts, out=fit, rank=16, cut=0.0, device="cpu", **small)
    out = tmp_path / "out"
    record = ps.export(
        relu_checkpoint, to="powerinfer", predictors=fit, out=out, data=texts, tokens=128,
        vram_gb=48 * 3 * 64 * 1e-9, device="cpu", progress=False,
    )  # fmt: skip
    assert record.file == "llama-relu.powerinfer.gguf"
    assert sorted(path.name for path in out.iterdir()) == [
        "activation",
        "llama-relu.powerinfer.gguf",
        "llama-relu.powerinfer.gguf.generated.gpuidx",
        "record.json",
    ]
    assert record.num_bytes == (out / record.file).stat().st_size
    keys, tensors = read(out / record.file)
    assert tensors["blk.1.fc2.weight"][1] == (48, 16)
    assert keys["llama.feed_forward_length"] == 48

# SPDX-License-Identifier: Apache-2.0
"""Run the whole line with the installed command on a random model of a few kilobytes."""

import json
import subprocess
import sys
from pathlib import Path

import yaml
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

folder = Path(sys.argv[1])
folder.mkdir()
symbols = ["<|endoftext|>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
backend = Tokenizer(models.BPE(vocab={s: i for i, s in enumerate(symbols)}, merges=[]))
backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
backend.decoder = decoders.ByteLevel()
PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=symbols[0]).save_pretrained(
    folder / "model"
)
sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
LlamaForCausalLM(
    LlamaConfig(vocab_size=257, eos_token_id=0, bos_token_id=None, **sizes, **heads)
).save_pretrained(folder / "model")
text = folder / "text.jsonl"
text.write_text("".join(json.dumps({"text": f"{n} and {n + 1}. " * 9}) + "\n" for n in range(99)))
recipe = {
    "model": str(folder / "model"),
    "out": str(folder / "run"),
    "data": {"context_length": 64, "components": {"text": {"path": str(text)}}},
    "training": {"learning_rate": 0.003, "micro_batch_size": 2},
    "regularization": {"stages": [{"until": 4, "factor": 0}, {"until": 8, "factor": 0.1}]},
    "measure": {"tokens": 256, "data": {"text": {"path": str(text)}}},
    "threshold": {"candidates": [0.01], "max_perplexity_increase": 0.1},
    "sample": {"prompt": "1 and", "tokens": 8},
}
(folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
command = [str(Path(sys.executable).with_name("prosparse")), "sparsify", f"{folder}/recipe.yaml"]
subprocess.run(command, check=True)
for name in ("model/config.json", "record.json", "report.html", "log.jsonl"):
    assert (folder / "run" / name).stat().st_size > 0, name

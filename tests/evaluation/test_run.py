# SPDX-License-Identifier: Apache-2.0
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from lm_eval.api.task import ConfigurableTask

import prosparse as ps
from prosparse.errors import UserError
from prosparse.evaluation import one_model, remembering
from prosparse.evaluation.answer_cache import AnswerFile
from prosparse.evaluation.answering import AnsweringModel
from prosparse.evaluation.preparation import short_names
from prosparse.model.checkpoint import load
from prosparse.predictors.files import write_predictors
from prosparse.records.files import read_record
from tests.conftest import byte_tokenizer, tiny_llama
from tests.evaluation.conftest import NUM_ITEMS, write_items
from tests.runtime.test_predicted import predictors


@pytest.fixture
def evaluate(data_dir, cache):
    """Evaluate with the settings that all tests share."""

    def run(models, **options):
        settings = {
            "data_dir": data_dir,
            "precision": "float32",
            "device": "cpu",
            "progress": False,
        }
        return ps.evaluate(models, **{**settings, **options})

    return run


@pytest.fixture
def other_model(tmp_path):
    folder = tmp_path / "other"
    tiny_llama(
        hidden_act="relu", max_position_embeddings=4096, initializer_range=0.3
    ).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


def test_prompts_are_written_once_for_all_models(evaluate, model_folder, other_model, monkeypatch):
    written, write = [], ConfigurableTask.fewshot_context
    monkeypatch.setattr(
        ConfigurableTask,
        "fewshot_context",
        lambda task, doc, **how: written.append(doc) or write(task, doc, **how),
    )
    together = evaluate([model_folder, other_model], tasks=["gsm8k", "copa"])
    assert len(written) == 2 * NUM_ITEMS
    assert (
        together.models[1].tasks == evaluate(other_model, tasks=["gsm8k", "copa"]).models[0].tasks
    )


def test_every_item_can_be_recounted(evaluate, model_folder, tmp_path):
    record = evaluate(model_folder, tasks=["piqa", "copa", "gsm8k"], out=tmp_path / "out")
    for score in record.models[0].tasks:
        lines = (tmp_path / f"out/items/0/{score.task}.jsonl").read_text().splitlines()
        items = [json.loads(line) for line in lines]
        assert len(items) == score.num_items == NUM_ITEMS
        assert sum(item[score.metric] for item in items) / NUM_ITEMS == score.score
        if score.metric == "acc_norm":
            assert all((item["chosen"] == item["target"]) == item["acc_norm"] for item in items)
    prompt = (tmp_path / "out/prompts/gsm8k.txt").read_text()
    assert prompt.count("\nA: ") == 8
    assert read_record(tmp_path / "out") == record


def test_the_sample_is_small_fixed_and_named(evaluate, model_folder):
    record = evaluate(model_folder, suite="quick", tasks=["wikitext2"])
    assert record.suite == "quick"
    assert record.models[0].tasks[0].num_items == 3


def test_missing_data_leaves_the_task_out_and_says_so(evaluate, model_folder, tmp_path):
    folder = write_items(tmp_path / "some", ["piqa.jsonl", "mmlu.jsonl"])
    record = evaluate(model_folder, data_dir=folder)
    assert [task.task for task in record.models[0].tasks] == ["piqa"]
    reasons = {missing.task: missing.reason for missing in record.missing}
    assert "There is no mmlu_dev5.jsonl" in reasons["mmlu"]
    assert "There is no copa.jsonl" in reasons["copa"]
    assert "--allow-code-execution" in reasons["humaneval"]
    assert record.models[0].overall.score is None


def test_missing_data_of_a_named_task_is_refused_before_any_model_is_loaded(evaluate, tmp_path):
    with pytest.raises(UserError, match=r"There is no piqa\.jsonl"):
        evaluate(tmp_path / "no model", tasks=["piqa"], data_dir=tmp_path)


def test_nothing_to_run_is_refused(evaluate, model_folder, tmp_path):
    with pytest.raises(UserError, match="No task can run"):
        evaluate(model_folder, data_dir=tmp_path)


def test_code_is_run_only_when_allowed(evaluate, model_folder, monkeypatch):
    def run(program, seconds=0):
        raise AssertionError(program)

    monkeypatch.setattr("prosparse.evaluation.code_scoring.judge", run)
    with pytest.raises(UserError, match="humaneval was not evaluated: it runs code"):
        evaluate(model_folder, tasks=["humaneval"])
    record = evaluate(model_folder)
    assert not {"humaneval", "mbpp"} & {task.task for task in record.models[0].tasks}


def test_a_machine_that_cannot_confine_says_so_first(evaluate, model_folder, monkeypatch):
    def refuse():
        raise UserError("no confinement")

    monkeypatch.setattr("prosparse.evaluation.preparation.check_confinement", refuse)
    with pytest.raises(UserError, match="no confinement"):
        evaluate(model_folder, tasks=["humaneval"], allow_code_execution=True)


def test_a_model_without_a_chat_template_is_refused_before_any_is_asked(
    evaluate, model_folder, tmp_path, monkeypatch
):
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = None
    tiny_llama().save_pretrained(tmp_path / "plain")
    tokenizer.save_pretrained(tmp_path / "plain")
    monkeypatch.setattr("prosparse.evaluation.one_model.load", None)
    with pytest.raises(UserError, match="plain has no chat template; evaluate it without --chat"):
        evaluate([model_folder, tmp_path / "plain"], tasks=["piqa"], chat=True)


def test_prompts_go_through_the_chat_template(evaluate, model_folder, tmp_path):
    evaluate(model_folder, tasks=["gsm8k", "piqa"], chat=True, out=tmp_path / "out")
    for task, end in (("gsm8k", "A:\nassistant:"), ("piqa", "Answer:\nassistant:")):
        prompt = (tmp_path / f"out/prompts/{task}.txt").read_text()
        assert prompt.startswith("user: ")
        assert prompt.endswith(end)


def test_answers_that_never_end_are_counted(evaluate, model_folder):
    record = evaluate(model_folder, tasks=["nq_open"])
    (score,) = record.models[0].tasks
    assert 0 < score.num_unended <= NUM_ITEMS


def test_what_is_scored_and_what_is_written_have_batches_of_their_own(
    evaluate, model_folder, monkeypatch
):
    sizes = {"_model_call": [], "_model_generate": []}
    for name, seen in sizes.items():
        real = getattr(AnsweringModel, name)

        def spy(*args, seen=seen, real=real, **kwargs):
            seen.append(len(kwargs["context"] if "context" in kwargs else args[1]))
            return real(*args, **kwargs)

        monkeypatch.setattr(AnsweringModel, name, spy)
    evaluate(model_folder, tasks=["piqa", "nq_open"], batch_size=2, generation_batch_size=4)
    assert sizes == {"_model_call": [2, 2, 2, 2, 2], "_model_generate": [4, 1]}


def test_a_second_evaluation_asks_nothing_and_tells_the_same(evaluate, model_folder, monkeypatch):
    first = evaluate(model_folder, tasks=["piqa", "gsm8k"])

    def ask(*args, **kwargs):
        raise AssertionError

    monkeypatch.setattr(AnsweringModel, "loglikelihood", ask)
    monkeypatch.setattr(AnsweringModel, "generate_until", ask)
    assert evaluate(model_folder, tasks=["piqa", "gsm8k"]).models == first.models


@pytest.mark.parametrize(
    "change", [{"batch_size": 2}, {"precision": "bfloat16"}, {"chat": True}, {"backend": "sparse"}]
)
def test_other_circumstances_are_asked_anew(change, evaluate, model_folder, monkeypatch):
    evaluate(model_folder, tasks=["piqa"])
    monkeypatch.setattr(
        AnswerFile, "add", lambda file, key, chunk: (_ for _ in ()).throw(LookupError)
    )
    with pytest.raises(LookupError):
        evaluate(model_folder, tasks=["piqa"], **change)


def test_another_model_is_asked_anew(evaluate, model_folder, other_model, cache):
    evaluate(model_folder, tasks=["piqa"])
    evaluate(other_model, tasks=["piqa"])
    assert len(list(cache.iterdir())) == 2


def test_an_interrupted_evaluation_goes_on_where_it_was(evaluate, model_folder, monkeypatch):
    monkeypatch.setattr("prosparse.evaluation.remembering.ITEMS_IN_CHUNK", 2)
    asked, ask = [], AnsweringModel.loglikelihood

    def interrupted(model, requests, disable_tqdm=False):
        asked.append(len(requests))
        if len(asked) == 2:
            raise KeyboardInterrupt
        return ask(model, requests, disable_tqdm)

    monkeypatch.setattr(AnsweringModel, "loglikelihood", interrupted)
    with pytest.raises(KeyboardInterrupt):
        evaluate(model_folder, tasks=["piqa"])
    whole = evaluate(model_folder, tasks=["piqa"])
    assert asked == [4, 4, 4, 2]  # the first two items once, the others after the interruption
    monkeypatch.undo()
    assert whole.models[0].tasks[0].num_items == NUM_ITEMS


def test_answers_from_elsewhere_are_scored_without_asking(evaluate, model_folder, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("asked")

    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(one_model, "device_name", lambda _: "another machine's GPU")
        there = evaluate(model_folder, tasks=["piqa", "gsm8k"])
    monkeypatch.setattr(AnsweringModel, "loglikelihood", refuse)
    monkeypatch.setattr(AnsweringModel, "generate_until", refuse)
    here = evaluate(model_folder, tasks=["piqa", "gsm8k"], from_cache=True)
    assert here.models == there.models
    assert here.models[0].answered_on.startswith("another machine's GPU (prosparse ")
    with pytest.raises(UserError, match="no sets of answers to copa"):
        evaluate(model_folder, tasks=["copa"], from_cache=True)
    with pytest.raises(UserError, match="no sets of answers to piqa"):
        evaluate(model_folder, tasks=["piqa"], batch_size=2, from_cache=True)


def test_half_of_the_answers_are_not_scored_as_if_they_were_all(
    evaluate, model_folder, cache, monkeypatch
):
    monkeypatch.setattr(remembering, "ITEMS_IN_CHUNK", 1)
    evaluate(model_folder, tasks=["piqa"])
    (file,) = cache.rglob("piqa-*.jsonl")
    lines = [line for line in file.read_text().splitlines() if line]
    file.write_text("\n".join(lines[:-1]))
    with pytest.raises(UserError, match="only a part of the answers"):
        evaluate(model_folder, tasks=["piqa"], from_cache=True)


def test_a_killed_process_goes_on_and_gives_the_uninterrupted_scores(
    model_folder, data_dir, tmp_path
):
    command = [
        sys.executable, "-m", "prosparse.cli.main", "evaluate", str(model_folder),
        "--tasks", "gsm8k,mmlu,piqa", "--data-dir", str(data_dir), "--precision", "float32",
    ]  # fmt: skip
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "killed")}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while not list((tmp_path / "killed").rglob("*.jsonl")) and time.monotonic() < deadline:
            time.sleep(0.05)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    options = {"tasks": ["gsm8k", "mmlu", "piqa"], "data_dir": data_dir, "precision": "float32",
               "device": "cpu", "progress": False}  # fmt: skip
    resumed = ps.evaluate(model_folder, cache=tmp_path / "killed/prosparse/evaluation", **options)
    fresh = ps.evaluate(model_folder, cache=tmp_path / "fresh", **options)
    assert [t.score for t in resumed.models[0].tasks] == [t.score for t in fresh.models[0].tasks]
    assert [t.sparsity for t in resumed.models[0].tasks] == [
        t.sparsity for t in fresh.models[0].tasks
    ]


def test_models_are_compared_on_the_same_items(evaluate, model_folder, other_model):
    commonsense = ["piqa", "siqa", "hellaswag", "winogrande", "copa"]
    record = evaluate([model_folder, other_model], tasks=commonsense)
    assert [scores.name for scores in record.models] == ["relu", "other"]
    found = {difference.name: difference for difference in record.differences}
    assert set(found) == {*commonsense, "Commonsense Reasoning"}
    first, second = ({t.task: t.score for t in scores.tasks} for scores in record.models)
    for name in commonsense:
        assert found[name].difference == pytest.approx(second[name] - first[name])
        assert found[name].against == "relu"
        assert found[name].low <= found[name].difference <= found[name].high
    column = record.models[1].columns[1].score - record.models[0].columns[1].score
    assert found["Commonsense Reasoning"].difference == pytest.approx(column)


def test_predictors_that_miss_nothing_agree_and_others_are_asked_anew(
    evaluate, model_folder, tmp_path
):
    for name, cut in (("all", float("-inf")), ("none", float("inf"))):
        (tmp_path / name).mkdir()
        own = predictors(load(model_folder), cut=cut)
        write_predictors(own, tmp_path / name)
    exact, nothing = (
        evaluate(
            model_folder, tasks=["piqa", "hellaswag"], backend=["dense", "predicted"],
            predictors=tmp_path / name,
        )
        for name in ("all", "none")
    )  # fmt: skip
    assert exact.changed_answers == ()
    assert exact.models[1].sparsity is None
    first, second = (record.models[1].tasks for record in (exact, nothing))
    assert [task.seconds for task in first] != [task.seconds for task in second]
    assert nothing.changed_answers != ()


def test_models_of_one_name_get_longer_names(evaluate, model_folder, tmp_path):
    for run in ("a", "b"):
        tiny_llama().save_pretrained(tmp_path / run / "model")
        byte_tokenizer().save_pretrained(tmp_path / run / "model")
    record = evaluate([tmp_path / "a/model", tmp_path / "b/model"], tasks=["copa"])
    assert [scores.name for scores in record.models] == ["a/model", "b/model"]


def test_names_differ_even_where_paths_hardly_do():
    assert short_names(["a/b", "/a/b"], ["dense"]) == {
        ("a/b", "dense"): "a/b",
        ("/a/b", "dense"): "/a/b",
    }
    assert short_names(["model", "x/model"], ["dense", "sparse"])["x/model", "sparse"] == (
        "x/model (sparse)"
    )


def test_sparsity_is_that_of_the_text_of_each_task(evaluate, model_folder):
    record = evaluate(model_folder, tasks=["piqa", "gsm8k"])
    piqa, gsm8k = record.models[0].tasks
    assert 0 < piqa.sparsity < 1
    assert piqa.sparsity != gsm8k.sparsity
    tokens = piqa.num_tokens + gsm8k.num_tokens
    assert record.models[0].sparsity == pytest.approx(
        (piqa.sparsity * piqa.num_tokens + gsm8k.sparsity * gsm8k.num_tokens) / tokens
    )


def test_scores_go_into_the_model_s_card_and_replace_older_ones(evaluate, tmp_path):
    folder = tmp_path / "relu"
    tiny_llama(hidden_act="relu", max_position_embeddings=4096).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    (folder / "README.md").write_text("---\ntags:\n- prosparse\n---\n\n# A model\n\nAbout it.\n")
    for tasks in (["piqa", "copa"], ["copa"]):
        record = evaluate(folder, tasks=tasks, card=True)
    card = ModelCard.load(folder / "README.md")
    (result,) = card.data.eval_results
    assert (result.dataset_type, result.metric_type) == ("copa", "acc_norm")
    assert result.metric_value == record.models[0].tasks[0].score
    assert card.data.tags == ["prosparse"]
    assert card.text.count("## Evaluation") == 1
    assert "About it." in card.text
    assert "COPA" in card.text
    assert "PIQA" not in card.text
    load(folder)


def test_a_model_that_is_no_folder_has_no_card(evaluate):
    with pytest.raises(
        UserError, match=r"--card writes into a model's folder, and x\.gguf is none"
    ):
        evaluate("x.gguf", tasks=["copa"], card=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"suite": "full"}, "--suite must be one of paper, quick; found 'full'"),
        ({"tasks": ["piqua"]}, "There is no task 'piqua'; did you mean 'piqa'"),
        ({"backend": "fast"}, "--backend must be one of dense, sparse, predicted; found 'fast'"),
        ({"backend": "predicted"}, "--backend predicted and --predictors go together"),
        ({"predictors": "x"}, "--backend predicted and --predictors go together"),
        ({"batch_size": 0}, "--batch-size must be at least 1; found 0"),
        ({"generation_batch_size": -1}, "--generation-batch-size must be at least 1; found -1"),
        ({"backend": "sparse", "batch_size": 8}, "--batch-size 8 leaves the sparse path"),
        (
            {"backend": "sparse", "generation_batch_size": 8},
            "--generation-batch-size 8 leaves the sparse path",
        ),
        ({"data_dir": "/nowhere"}, "--data-dir /nowhere is no folder"),
        ({"precision": "int8"}, "--precision must be auto, float32 or bfloat16"),
        ({"backend": ["dense", "dense"]}, "A backend is named twice"),
    ],
)
def test_mistakes_are_one_sentence(options, message, evaluate, model_folder):
    with pytest.raises(UserError, match=message):
        evaluate(model_folder, **{"tasks": ["piqa"], **options})


def test_a_model_twice_is_refused(evaluate, model_folder):
    with pytest.raises(UserError, match="A model is named twice"):
        evaluate([model_folder, str(model_folder)])


def test_existing_output_is_refused_before_any_work(evaluate, tmp_path):
    with pytest.raises(UserError, match="already exists"):
        evaluate("no model", out=tmp_path)


def test_without_lm_eval_it_says_what_to_install(evaluate, model_folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(UserError, match=r"Benchmarks need lm-eval .*prosparse\[eval\]"):
        evaluate(model_folder)


def test_the_command_writes_a_report_with_all_tables(
    model_folder, other_model, data_dir, cache, tmp_path
):
    from typer.testing import CliRunner

    from prosparse.cli.main import app

    out = tmp_path / "out"
    done = CliRunner().invoke(app, [
        "evaluate", str(model_folder), str(other_model), "--tasks", "piqa,gsm8k", "--data-dir",
        str(data_dir), "--precision", "float32", "--average-what-is-there", "--out", str(out),
    ])  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "Not chosen: humaneval, mbpp, siqa, " in done.output
    assert {path.name for path in Path(out).iterdir()} == {
        "record.json", "report.html", "report.md", "report.json", "tables.tex", "items", "prompts",
    }  # fmt: skip

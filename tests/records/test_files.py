# SPDX-License-Identifier: Apache-2.0
"""Records are written whole, read strictly, and a log survives a kill."""

import json
import math

import pytest

from prosparse.errors import UserError
from prosparse.records.files import read_log, read_record, write_record, write_whole
from prosparse.records.provenance import collect_provenance
from prosparse.records.run import RelufyRecord
from prosparse.records.sparsity import Activation, DataMeasure, MeasureRecord


@pytest.fixture
def relufied() -> RelufyRecord:
    return RelufyRecord(
        model="somewhere/model",
        replaced=Activation("silu"),
        activation=Activation("fatrelu", 0.01),
        num_layers=2,
        d_model=32,
        d_ff=48,
        provenance=collect_provenance("a CPU", 2, seed=3),
    )


def changed(folder, **values) -> None:
    path = folder / "record.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_a_record_comes_back_from_its_folder_and_from_its_path(relufied, tmp_path):
    path = write_record(relufied, tmp_path)
    assert path == tmp_path / "record.json"
    assert read_record(tmp_path) == relufied
    assert read_record(path) == relufied
    assert json.loads(path.read_text())["schema"] == 1


def test_numbers_that_json_cannot_say_come_back(relufied, tmp_path):
    measured = DataMeasure("a", "a.jsonl", 8, 7, 800.0, math.nan, math.inf, math.nan, 0.5, (0.5,))
    record = MeasureRecord(
        model="m",
        activation=Activation("relu"),
        dtype="float32",
        context_length=8,
        sparsity=0.5,
        layer_sparsity=(0.5,),
        data=(measured,),
        seconds=1.0,
        provenance=relufied.provenance,
    )
    text = write_record(record, tmp_path).read_text()
    json.loads(text, parse_constant=pytest.fail)  # NaN and Infinity are not JSON
    back = read_record(tmp_path)
    assert back.data[0].perplexity == math.inf
    assert math.isnan(back.data[0].loss_stderr)


def test_no_record(tmp_path):
    with pytest.raises(UserError, match=r"No record\.json in .*: give the output folder"):
        read_record(tmp_path)


@pytest.mark.parametrize("text", ["{", "", "\udcff"])
def test_a_broken_record(text, tmp_path):
    (tmp_path / "record.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(UserError, match=r"record\.json is not a JSON record"):
        read_record(tmp_path)


@pytest.mark.parametrize("kind", ["cake", None, ["relufy"], {}])
def test_an_unknown_kind(kind, relufied, tmp_path):
    write_record(relufied, tmp_path)
    changed(tmp_path, kind=kind)
    with pytest.raises(UserError, match="its 'kind' is none of relufy, train, measure"):
        read_record(tmp_path)


def test_json_that_is_no_mapping(tmp_path):
    (tmp_path / "record.json").write_text("[1]")
    with pytest.raises(UserError, match="is not a prosparse record"):
        read_record(tmp_path)


@pytest.mark.parametrize("schema", [None, 0, 2, "1"])
def test_another_schema(schema, relufied, tmp_path):
    write_record(relufied, tmp_path)
    changed(tmp_path, schema=schema)
    with pytest.raises(UserError, match=f"has record schema {schema}; .* reads 1"):
        read_record(tmp_path)


def test_a_key_that_this_version_does_not_know(relufied, tmp_path):
    write_record(relufied, tmp_path)
    changed(tmp_path, num_layer=2)
    with pytest.raises(UserError, match=r"record\.json: num_layer is not a known key"):
        read_record(tmp_path)


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "sub" / "file.txt"
    write_whole(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_whole(path, "new \udc80")
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]


def test_a_log_without_its_last_half_line(tmp_path):
    log = tmp_path / "log.jsonl"
    assert read_log(log) == []
    log.write_text('{"step": 1}\n{"step": 2}\n')
    assert read_log(log) == [{"step": 1}, {"step": 2}]
    log.write_text('{"step": 1}\n{"step": 2}\n{"st')
    assert read_log(log) == [{"step": 1}, {"step": 2}]


def test_a_broken_line_in_the_middle_of_a_log(tmp_path):
    log = tmp_path / "log.jsonl"
    log.write_text('{"step": 1}\n{"st\n{"step": 3}\n')
    with pytest.raises(UserError, match=r"log\.jsonl, line 2, is not JSON"):
        read_log(log)

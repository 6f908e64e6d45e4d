# SPDX-License-Identifier: Apache-2.0
import gzip
import importlib.util
import json
import lzma
from pathlib import Path

import datasets
import pyarrow
import pyarrow.parquet
import pytest
import zstandard

from prosparse.data.documents import documents
from prosparse.data.sources import Source, local_files
from prosparse.errors import UserError

TEXTS = ["one", "two\nlines \u2028 and \x85 more", "drei Füße 🙂"]
JSONL = "".join(json.dumps({"text": text}) + "\n" for text in TEXTS).encode()


def read(path: object, **fields: str | int) -> list[str]:
    return [document.text for document in documents(Source(str(path), **fields), "prose")]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", JSONL),
        ("a.NDJSON", JSONL),
        ("a.json", JSONL.rstrip(b"\n")),
        ("a.jsonl.xz", lzma.compress(JSONL)),
        ("a.jsonl.gz", gzip.compress(JSONL, mtime=0)),  # the time would be in the test's name
        ("a.jsonl.zst", zstandard.compress(JSONL)),
        ("two-frames.jsonl.gz", gzip.compress(JSONL[:30]) + gzip.compress(JSONL[30:])),
        ("two-frames.jsonl.zst", zstandard.compress(JSONL[:30]) + zstandard.compress(JSONL[30:])),
        ("[*] odd, v1.2.jsonl", JSONL),
        (".hidden/a.jsonl", JSONL),
    ],
)
def test_every_way_to_store_json_lines_gives_the_same_texts(tmp_path, name, content):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    assert read(path) == TEXTS


def test_parquet_gives_the_same_texts(tmp_path):
    table = pyarrow.table({"id": [1, 2, 3], "body": TEXTS})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet", text_field="body") == TEXTS


def test_a_text_file_is_one_document(tmp_path):
    (tmp_path / "a.txt").write_text("one\n\ntwo\n")
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(b"three"))
    assert read(tmp_path, text_field="body") == ["one\n\ntwo\n", "three"]


def test_optional_and_mixed_fields_do_not_matter(tmp_path):
    path = tmp_path / "a.jsonl"
    extras = [{}, {"lang": "py"}, {"lang": 3}, {"lang": {"a": []}}, {"more": None}]
    path.write_text("\n".join(json.dumps({"text": "x", **extra}) for extra in extras))
    assert read(path) == ["x"] * len(extras)


def test_blank_lines_and_empty_texts_are_skipped(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('\n{"text": ""}\r\n   \n{"text": "x"}\n\n')
    assert read(path) == ["x"]


def test_folders_and_globs_are_read_in_sorted_order(tmp_path, monkeypatch):
    (tmp_path / "sub").mkdir()
    for name in ("b.jsonl", "a.jsonl", "sub/c.txt"):
        (tmp_path / name).write_text(json.dumps({"text": name}))
    (tmp_path / "README.md").write_text("not data")
    assert read(tmp_path)[:2] == ["a.jsonl", "b.jsonl"]
    assert len(read(tmp_path)) == 3
    assert read(tmp_path / "?.jsonl") == ["a.jsonl", "b.jsonl"]
    monkeypatch.setenv("HOME", str(tmp_path))
    assert read("~/b.jsonl") == ["b.jsonl"]


def test_reading_is_lazy(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "x"}\nnot JSON\n')
    assert next(documents(Source(str(path)), "prose")).text == "x"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'\n{"text": "x"}\n{"text": x}\n', "line 3, is not JSON: Expecting value at column 10."),
        (b'{"text": "x"}\n[1, 2]\n', "line 2, is not a JSON object with a field 'text'."),
        (
            b'{"body": 1, "id": 2}',
            "line 1, lacks the field 'text' (text_field); its fields: body, id.",
        ),
        (b"{}", "line 1, lacks the field 'text' (text_field); its fields: none."),
        (b'{"text": null}', "line 1, has a 'text' that is not a string: None."),
        (b'{"text": "\\ud800"}', "line 1, has a 'text' that is not valid Unicode."),
        (b'{"text": "\xff"}', " cannot be read: 'utf-8' codec can't decode byte 0xff"),
        (b'\n{"text": ""}\n', " holds no text."),
        (b"", " holds no text."),
    ],
)
def test_broken_json_lines_are_one_sentence_with_the_place(tmp_path, content, message):
    path = tmp_path / "a.jsonl"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        read(path)
    sentence = str(caught.value)
    assert sentence.startswith(f"Data component 'prose': {path}")
    assert message in sentence


@pytest.mark.parametrize("name", ["a.jsonl.xz", "a.jsonl.gz", "a.jsonl.zst", "a.parquet"])
def test_a_corrupt_file_is_named(tmp_path, name):
    (tmp_path / name).write_bytes(b"neither this nor that")
    with pytest.raises(
        UserError, match=rf"^Data component 'prose': .*{name} cannot be read: .+\.$"
    ):
        read(tmp_path / name)


def test_a_truncated_file_is_named(tmp_path):
    (tmp_path / "a.jsonl.xz").write_bytes(lzma.compress(JSONL)[:-8])
    with pytest.raises(UserError, match=r"a\.jsonl\.xz cannot be read: Compressed file ended"):
        read(tmp_path / "a.jsonl.xz")


def test_parquet_errors_name_the_row(tmp_path):
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": ["x", None]}), path)
    with pytest.raises(UserError, match=r"a\.parquet, row 2, has a 'text' that is not a string"):
        read(path)
    with pytest.raises(UserError, match=r"row 1, lacks the field 'body' .*; its fields: text\."):
        read(path, text_field="body")


@pytest.mark.parametrize("path", ["missing.jsonl.xz", "./missing", "/missing", "~/missing", "no/*"])
def test_a_missing_path_does_not_exist(path):
    with pytest.raises(UserError, match="does not exist"):
        read(path)


def test_files_that_cannot_be_read_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"is a folder without \.jsonl"):
        read(tmp_path)
    for name in ("a.csv", "a.parquet.gz", "plain"):
        (tmp_path / name).write_text("x")
        with pytest.raises(UserError, match=rf"'prose': .*{name} is none of \.jsonl"):
            read(tmp_path / name)


def test_hub_settings_are_refused_for_local_files(tmp_path):
    (tmp_path / "a.txt").write_text("x")
    for fields in ({"split": "test"}, {"config": "en"}, {"shuffle_buffer": 9}):
        with pytest.raises(UserError, match="is local, but 'split', 'config' and"):
            read(tmp_path / "a.txt", **fields)


def test_local_files_make_no_network_call(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(datasets.config, "HF_UPDATE_DOWNLOAD_COUNTS", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.load, "get_session", lambda: calls.append("session"))
    (tmp_path / "a.jsonl").write_bytes(JSONL)
    assert read(tmp_path / "a.jsonl") == TEXTS
    assert calls == []


def test_a_hub_id_goes_to_datasets(monkeypatch):
    calls = []

    def load_dataset(*args, **kwargs):
        calls.append((args, kwargs))
        return iter([{"body": "x"}, {"body": ""}, {"body": "y"}, {"id": 1}])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    source = Source("wikimedia/wikipedia", "test", config="20231101.en", text_field="body")
    assert local_files(source, "wiki") is None
    texts = (document.text for document in documents(source, "wiki"))
    assert [next(texts), next(texts)] == ["x", "y"]
    assert calls == [(("wikimedia/wikipedia", "20231101.en"), {"split": "test", "streaming": True})]
    with pytest.raises(UserError, match="'wiki': wikimedia/wikipedia, row 4, lacks the field"):
        next(texts)


def test_a_hub_data_set_can_be_shuffled(monkeypatch):
    def load_dataset(*args, **kwargs):
        rows = [{"text": str(n)} for n in range(50)]
        return datasets.Dataset.from_list(rows).to_iterable_dataset(num_shards=5)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    shuffled = [read("who/what", shuffle_buffer=10) for _ in range(2)]
    assert shuffled[0] == shuffled[1] != read("who/what")
    assert sorted(shuffled[0]) == sorted(read("who/what"))


def test_a_hub_failure_is_one_sentence(monkeypatch):
    def load_dataset(*args, **kwargs):
        raise ConnectionError("Couldn't reach it\non the Hub.")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(UserError) as caught:
        read("who/what")
    assert str(caught.value) == (
        "Data component 'prose': who/what is no local file, and as a hub data set it cannot be "
        "read: Couldn't reach it on the Hub."
    )


@pytest.mark.parametrize("package", ["datasets", "zstandard"])
def test_a_missing_package_says_what_to_install(tmp_path, monkeypatch, package):
    path = tmp_path / "a.jsonl.zst"
    path.write_bytes(zstandard.compress(JSONL))
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == package else find_spec(name)
    )
    with pytest.raises(UserError, match=rf"needs '{package}': run pip install 'prosparse\[data\]'"):
        read(path)


def test_paths_are_returned_for_fingerprints(tmp_path):
    (tmp_path / "a.txt").write_text("x")
    assert local_files(Source(str(tmp_path)), "prose") == [Path(tmp_path / "a.txt")]

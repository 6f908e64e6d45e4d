import json
from pathlib import Path
import pytest
from prosparse.records.files import write_record
from prosparse.reporting.page import write_report

@pytest.mark.parametrize("kind", ["relufy","train","measure","threshold","sparsify"])
def test_preview(kind, request, log):
    record = request.getfixturevalue(f"{kind}_record")
    folder = Path("/tmp/preview")/kind
    folder.mkdir(parents=True, exist_ok=True)
    write_record(record, folder)
    if kind in ("train","sparsify"):
        (folder/"log.jsonl").write_text("".join(json.dumps(e)+"\n" for e in log))
    print(write_report(folder))

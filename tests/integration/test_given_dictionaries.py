"""An extraction with dictionaries from a folder finds the very circuit of the run that they came from."""

from pathlib import Path

import pytest

import hagd
from hagd.dictionaries.formats import hugging_face
from hagd.dictionaries.formats.card import Belongings
from hagd.dictionaries.storage import dictionaries_from_document
from hagd.extraction.plan import EXTRACT, PRINCIPAL, build_plan
from hagd.extraction.result import Extraction
from hagd.extraction.running import run_request
from hagd.extraction.settings import Settings
from hagd.pipeline.request import Request


@pytest.mark.slow
def test_the_circuit_is_that_of_the_run_whose_dictionaries_are_given(tmp_path: Path) -> None:
    plan = build_plan(Settings(task="modular-addition", modulus=23), upto="traversal")
    run_request(tmp_path / "first", Request(PRINCIPAL, EXTRACT, plan), store=tmp_path / "store", threads=1)
    first = Extraction.open(tmp_path / "first").run
    folder = tmp_path / "dictionaries"
    folder.mkdir()
    digest = first.document("model").content["provenance"]["digest"]
    content = dictionaries_from_document(first.document("dictionaries"))
    hugging_face.write(content, folder, Belongings("trained", None, digest, "hagd-run"), {})

    second = hagd.extract(
        task="modular-addition",
        modulus=23,
        dictionaries=folder,
        out=tmp_path / "second",
        store=tmp_path / "store",
        threads=1,
        progress=False,
        verification={"draws": 99},
    )

    stages = [stage.stage_id for stage in second.run.state.stages]
    assert stages == ["subject", "dictionary-import", "coarsening", "traversal", "verification"]
    assert second.run.roles["model"] == first.roles["model"]
    assert second.run.roles["graph"] == first.roles["graph"]
    assert second.run.roles["circuit"] == first.roles["circuit"]
    assert second.verdict == "verified"

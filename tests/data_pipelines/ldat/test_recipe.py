"""The Python of the recipe for a rewriter works as it stands in the README."""

import json
import pathlib

from data_pipelines.ldat import stages
from data_pipelines.ldat.prompt import FOLDER, Prompt
from tests.data_pipelines.ldat.conftest import generated_entries

README = pathlib.Path(__file__).resolve().parents[3] / "data_pipelines" / "README.md"


def test_the_recipe_writes_the_clean_triplets(root, new_work, tmp_path, monkeypatch):
    code = README.read_text("utf-8").split("```python\nimport json, os\n")[1].split("```")[0]
    settings = '"/data", "zh", "train"'
    assert settings in code
    code = code.replace(settings, f'{str(root)!r}, "zh", "train"')
    code = code.replace(
        "work, folder =",
        'config.translator, config.rewriter = "grammar", "keep"\n'
        "config.grammar.noise = 0.3\nwork, folder =",
    )
    work = new_work(splits="train", **{"grammar.noise": 0.3})
    stages.translate(work)
    clean = stages.score(work).done
    monkeypatch.chdir(tmp_path)
    exec("import json, os\n" + code, {})
    rows = [json.loads(r) for r in open("triplets/metadata.jsonl", encoding="utf-8")]
    assert 40 < len(rows) < clean == 160
    prompt = Prompt(FOLDER, "rewrite", "en", "zh")
    captions = {
        (f"imgs/{entry['file_path']}", prompt.text(caption))
        for entry in generated_entries("train", "en")
        for caption in entry["captions"]
    }
    for row in rows:
        assert (row["file_name"], row["prompt"][0]["content"]) in captions
        assert row["completion"][0]["content"]
    assert pathlib.Path("triplets/imgs").resolve() == (root / "CUHK-PEDES" / "imgs").resolve()

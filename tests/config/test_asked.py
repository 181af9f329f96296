"""Samples that a configuration names: by ids, which YAML may take for numbers, by queries, or a number of them."""

from datetime import date

import numpy as np
import pandas as pd
import pytest
import yaml
from pydantic import ValidationError
from safetensors.torch import save_file
from typer.testing import CliRunner

from krepes.cli import app
from krepes.config.asked import AuditConfig, ReportConfig
from krepes.encoders import MLP


def test_whole_numbers_are_ids_as_text():
    found = AuditConfig.model_validate(
        {"counterfactuals": {"a": [1, "2", 3], "b": 4, "c": "age > 3"},
         "concepts": {"d": [0, 1], "e": {"positive": [2], "negative": ["x"]}, "f": "age > 3"}}
    )  # fmt: skip
    assert found.counterfactuals == {"a": ["1", "2", "3"], "b": 4, "c": "age > 3"}
    assert (found.concepts["d"], found.concepts["f"]) == (["0", "1"], "age > 3")
    assert found.concepts["e"].model_dump() == {"positive": ["2"], "negative": ["x"]}
    assert ReportConfig.model_validate({"explain": [5, "row-7"]}).explain == ["5", "row-7"]
    assert ReportConfig.model_validate({"explain": 5}).explain == 5


@pytest.mark.parametrize(
    ("section", "content", "message"),
    [
        (AuditConfig, {"counterfactuals": {"a": [1.5]}}, "1.5 is no id, which is text or a whole number; put it in"),
        (AuditConfig, {"counterfactuals": {"a": [date(2020, 1, 1)]}}, "datetime.date"),
        (AuditConfig, {"counterfactuals": {"a": [True]}}, "True is no id"),
        (AuditConfig, {"counterfactuals": {"a": 0}}, "expected at least 1 landmark"),
        (AuditConfig, {"counterfactuals": {"a": {"b": 1}}}, "a list of ids, or a number of landmarks"),
        (AuditConfig, {"concepts": {"a": 3}}, "a list of ids, or positive and negative"),
        (AuditConfig, {"concepts": {"a": {"positive": 3}}}, "a query on the table"),
        (ReportConfig, {"explain": "row-7"}, "expected a number of samples, or a list of ids"),
        (ReportConfig, {"explain": True}, "expected a number of samples, or a list of ids"),
    ],
)
def test_what_names_no_samples_is_one_mistake(section, content, message):
    with pytest.raises(ValidationError, match=message) as error:
        section.model_validate(content)
    assert error.value.error_count() == 1


@pytest.fixture
def array(tmp_path):
    """A configuration of an array, whose ids are 0, 1, …"""
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32))
    save_file(MLP(4, [6], 3).state_dict(), tmp_path / "w.safetensors")
    content = {
        "encoder": {"factory": "krepes.encoders:MLP", "args": {"n_in": 4, "hidden": [6], "n_out": 3},
                    "weights": "w.safetensors"},
        "data": {"array": "x.npy"}, "views": {"name": "gaussian"}, "objective": "vicreg", "landmarks": 8,
        "audit": {"refits": 0, "attribution": 0, "automatic_concepts": False}, "trust": {"refits": False},
        "output": str(tmp_path / "run"),
    }  # fmt: skip
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(content))
    return tmp_path / "c.yaml"


def command(verb, path, *options):
    flags = [x for o in options for x in ("--set", o)]
    result = CliRunner().invoke(app, [verb, str(path), *flags])
    return result.exit_code, " ".join(result.output.split())


def test_samples_of_an_array_are_named_by_whole_numbers(array):
    code, output = command("audit", array, "report.explain=[0, 29]", "audit.counterfactuals={without: [1, 2, 3]}")
    assert code == 0, output


@pytest.mark.parametrize("verb", ["audit", "inspect", "plan"])
def test_an_explained_sample_that_does_not_exist_is_named_with_its_place(verb, array):
    code, output = command(verb, array, "report.explain=[3, 999999]")
    assert code == 1
    assert "--set report.explain=[3, 999999]: report.explain names unknown samples: 999999;" in output
    assert "run from '0' to '29'" in output
    array.write_text(array.read_text() + "report:\n  explain: [30]\n")
    line = len(array.read_text().splitlines())
    assert f"c.yaml:{line}:3: report.explain names unknown samples: 30;" in command(verb, array)[1]


def test_a_removed_sample_that_does_not_exist_is_named(array):
    code, output = command("audit", array, "audit.counterfactuals={without: [1, 999999]}")
    assert code == 1
    assert "counterfactual 'without' do not exist: 999999. Ids look like '0'" in output


def test_training_samples_are_asked_for_where_the_configuration_says(array):
    code, output = command("audit", array, "audit.attribution=200", "audit.attribution_at=training")
    assert code == 0, output
    table = pd.read_parquet(array.parent / "run" / "attribution.parquet")
    assert table["target"].eq("local invariance (after a training)").all()
    page = (array.parent / "run" / "report.html").read_text()
    assert "along a training of the kernel machine from random starts" in page
    assert "(the mean cosine between it and its views)" in page
    assert "at the encoder&#39;s own output" not in page.replace("'", "&#39;")
    code, output = command("audit", array, "audit.attribution_at=end")
    assert code == 1
    assert "'encoder', 'step' or 'training'" in output

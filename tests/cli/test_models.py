"""What `train`, `validate` and `run` print: all models side by side, and no more than was shown."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from storm_clinic.cli.models import _show
from storm_clinic.study import Study
from storm_clinic.validation.evidence import Estimate, Evidence

INPUTS = {"clinical": ["clinical"], "image": ["image"], "fusion": ["image", "clinical"]}


def made(metric: str, value: float | None, model: str, **place) -> Estimate:
    ends = {} if value is None else {"lower": value - 0.1, "upper": value + 0.1}
    parts = {"n_patients": 90, "n_events": 40, "method": "m", "cohort": "north", "note": ""}
    return Estimate(metric=metric, value=value, model=model, **(parts | ends | place))


@pytest.fixture
def model() -> SimpleNamespace:
    study = Study.from_document(
        {
            "format": 1,
            "study": "s",
            "question": "Which of these is printed where?",
            "endpoint": {"name": "pfs"},
            "features": {"encoder": "e"},
            "development": ["north"],
            "clinical": ["age"],
            "candidate": "fusion",
            "models": [
                {"name": name, "head": f"head-{name}", "inputs": seen}
                for name, seen in INPUTS.items()
            ],
            "evaluation": {"seed": 1},
        }
    )
    bundle = SimpleNamespace(study=study)
    return SimpleNamespace(reference="s:1", state="candidate", bundle=bundle)


@pytest.fixture
def evidence() -> Evidence:
    return Evidence(
        study="s",
        study_digest="d",
        kind="cross-validation",
        candidate="fusion",
        comparator="clinical",
        estimates=(
            *(made("c_index", 0.6, name) for name in reversed(INPUTS)),
            made("c_index_gain", 0.05, "image", over="clinical"),
            made("c_index_gain", 0.07, "fusion", over="clinical"),
            made("c_index_gain", 0.02, "fusion", over="image"),
            made("calibration_slope", None, "image", note="too few events"),
        ),
        seconds={"fusion": 12.5},
    )


def test_all_models_are_printed_side_by_side_in_the_order_of_the_study(model, evidence, capsys):
    _show(model, [evidence], False)
    lines = capsys.readouterr().out.splitlines()
    assert "support no claim" in lines[0]
    clinical, image, fusion = (line.split() for line in lines[2:5])
    assert clinical[:3] == ["clinical", "head-clinical", "clinical"]
    assert "reference" in clinical
    assert image[:3] == ["image", "head-image", "image"]
    assert "not estimable: too few events" in lines[3]
    assert fusion[:2] == ["fusion", "*"]
    assert fusion[-1] == "12.5"
    assert lines[5].startswith("Each fusion against its parts")
    over = [line.split()[:3] for line in lines[7:9]]
    assert over == [["fusion", "clinical", "0.070"], ["fusion", "image", "0.020"]]


def test_the_json_holds_the_evidence_whole_and_the_seconds_beside_it(model, evidence, capsys):
    _show(model, [evidence], True)
    found = json.loads(capsys.readouterr().out)
    assert Evidence.from_json(found["evidence"][0]) == evidence
    assert found["seconds"] == {"fusion": 12.5}

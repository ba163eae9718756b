"""The study file refuses what it does not understand, and says where and what instead."""

from __future__ import annotations

from pathlib import Path

import pytest

from storm_clinic.errors import StudyError
from storm_clinic.study import Study

KIRC = Path(__file__).resolve().parent.parent / "pipelines" / "kirc_pfi.yaml"


@pytest.fixture
def edited(tmp_path):
    """The shipped study with one piece of text replaced by another."""

    def edit(old: str, new: str) -> Path:
        text = KIRC.read_text()
        assert old in text, "the edit must change something"
        path = tmp_path / "study.yaml"
        path.write_text(text.replace(old, new))
        return path

    return edit


def test_the_shipped_study_says_what_it_says():
    study = Study.read(KIRC)
    assert study.candidate == "fusion"
    assert study.endpoint.horizons_months == (12, 36, 60)
    assert study.comparator is not None
    assert study.comparator.name == "clinical"
    assert study.model("abmil").tune == {"dropout": (0.0, 0.25)}
    assert study.evaluation.bootstraps == 1000  # the default is resolved, not left out


def test_a_resolved_study_reads_back_as_itself():
    study = Study.read(KIRC)
    again = Study.from_document(study.resolved())
    assert again == study
    assert again.digest == study.digest


def test_the_intended_use_is_research_where_none_is_declared_and_old_digests_hold(edited):
    study = Study.read(KIRC)
    assert study.intended_use == "research"
    assert "intended_use" not in study.resolved()
    silent = Study.read(edited("intended_use: research\n", ""))
    assert silent == study
    assert silent.digest == study.digest
    sold = Study.read(edited("intended_use: research", "intended_use: commercial"))
    assert sold.resolved()["intended_use"] == "commercial"
    assert sold.digest != study.digest
    assert Study.from_document(sold.resolved()) == sold


def test_a_use_that_is_none_of_the_four_is_refused_by_line(edited):
    path = edited("intended_use: research", "intended_use: clinical")
    with pytest.raises(StudyError, match=r"line 25, intended_use: .*clinical_investigation"):
        Study.read(path)


def test_comments_and_order_of_keys_do_not_change_the_digest_but_a_seed_does(edited):
    original = Study.read(KIRC).digest
    assert Study.read(edited("format: 1\n", "# a remark\nformat: 1\n")).digest == original
    swapped = edited("{folds: 5, repeats: 3,", "{repeats: 3, folds: 5,")
    assert Study.read(swapped).digest == original
    assert Study.read(edited("seed: 20261123", "seed: 20261124")).digest != original


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "clinical: [age",
            "clinicl: [age",
            r"line 10, clinicl: unknown key; did you mean 'clinical'",
        ),
        ("tune: {", "tunes: {", r"line 15, models\.2\.tunes: unknown key; did you mean 'tune'"),
        ("candidate: fusion", "candidate: fussion", r"'fussion'.*did you mean 'fusion'"),
        ("over: clinical", "over: clincal", r"'clincal'.*did you mean 'clinical'"),
        ("name: abmil,", "name: pooled,", r"'pooled' is used twice"),
        ("[tcga_kirp]", "[tcga_kirc]", r"'tcga_kirc' is both a development and a validation"),
        ("folds: 5", "folds: 1", r"line 17, evaluation\.folds"),
        ("[12, 36, 60]", "[12, 60, 36]", r"horizons must ascend"),
        (
            "lower_bound_at_least: 0.60",
            "lower_bound: 0.60",
            r"unknown key; did you mean 'lower_bound",
        ),
        ("c_index_gain, over: clinical,", "c_index_gain,", r"names its comparator in 'over'"),
        ("{from: 0.05, to: 0.50}", "{from: 0.50, to: 0.05}", r"'from' must lie below 'to'"),
        ("inputs: [image, clinical]", "inputs: [image, Image]", r"models\.3\.inputs"),
        ("inputs: [image, clinical]", "inputs: [image, image]", r"models\.3\.inputs"),
        ("format: 1", "format: 2", r"line 3, format"),
        ("[0.0, 0.25]", "{from: 0.0, to: 0.5}", r"line 15, .*tune\.dropout is a range; say how"),
        ("[0.0, 0.25]", "{frm: 0.0, to: 0.5}", r"line 15, .*dropout\.frm: unknown key.*'from'"),
        ("[0.0, 0.25]", "{to: 0.5}", r"line 15, models\.2\.tune\.dropout\.from: .*missing"),
        ("[0.0, 0.25]", "{from: 0.5, to: 0.5}", r"'from' must lie below 'to'"),
        ("[0.0, 0.25]", "{from: 0.0, to: 0.5, log: true}", r"'from' must be above 0"),
        ("tune: {dropout: [0.0, 0.25]}}", "search: {trials: 5}}", r"nothing to search"),
    ],
)
def test_a_mistake_is_named_with_its_line(edited, old, new, message):
    with pytest.raises(StudyError, match=message):
        Study.read(edited(old, new))


def test_a_duplicate_key_is_refused_with_its_line(edited):
    path = edited("candidate: fusion", "candidate: fusion\ncandidate: clinical")
    with pytest.raises(StudyError, match=r"line 12.*duplicate key \"?candidate"):
        Study.read(path)


def test_yaml_12_keeps_no_as_text(edited):
    # YAML 1.1 readers turn a model called "no" into False.
    study = Study.read(edited("name: pooled,", "name: no,"))
    assert study.models[1].name == "no"


def test_a_python_tag_builds_no_object(edited, tmp_path):
    trap = tmp_path / "trap"
    path = edited("study: kirc-pfi", f"study: !!python/object/apply:os.mkdir ['{trap}']")
    with pytest.raises(StudyError):
        Study.read(path)
    assert not trap.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"- a\n- b\n", "keys and values"), (b"\xff\xfe\x00", "UTF-8"), (b"a: [1,", "line 1")],
)
def test_what_is_no_study_is_said_to_be_none(tmp_path, content, message):
    path = tmp_path / "study.yaml"
    path.write_bytes(content)
    with pytest.raises(StudyError, match=message):
        Study.read(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(StudyError, match=r"nowhere\.yaml: there is no such file"):
        Study.read(tmp_path / "nowhere.yaml")


def test_a_searched_study_reads_back_as_itself(edited):
    ranged = "{dropout: {from: 0.0, to: 0.5}, hidden: [16, 32]}, search: {trials: 20}"
    study = Study.read(edited("{dropout: [0.0, 0.25]}", ranged))
    assert study.model("abmil").search.sampler == "tpe"
    assert Study.from_document(study.resolved()).digest == study.digest

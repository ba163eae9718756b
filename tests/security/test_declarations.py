"""Whatever stands in a declaration, reading it gives a valid object or an error of ours."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from nasty_text import edited_yaml

import storm_clinic
from storm_clinic.cohort.manifest import Manifest, read_manifest
from storm_clinic.errors import CohortError, StormClinicError, StudyError
from storm_clinic.study import Study

PACKAGE = Path(storm_clinic.__file__).parent
STUDY = (PACKAGE / "simulate" / "studies" / "demo_pfs_multi.yaml").read_text(encoding="utf-8")
COHORT = """\
format: 1
cohort: hospital
tables:
  clinical: {path: clinical.csv, patient_id: id}
  slides: {path: slides.csv, patient_id: case, slide_id: slide}
site: centre
columns:
  age: {from: age, kind: continuous, unit: years}
  stage: {from: stage, kind: ordinal, levels: [I, II, no, 4]}
endpoints:
  os: {kind: survival, time: days, unit: days, event: died, codes: {0: censored, 1: event}}
missing: ["", "NA"]
origin: {source: invented for tests, licence: none, simulated: true}
"""
FUZZ = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def read_edited(path, text, read):
    """What was read, or the error of ours; any other exception fails the test."""
    path.write_text(text, encoding="utf-8")
    try:
        return read(path)
    except StormClinicError as error:
        found = error
    assert str(path) in str(found)
    return found


@FUZZ
@given(text=edited_yaml(STUDY))
def test_an_edited_study_is_a_study_or_an_error_of_ours(tmp_path, text):
    found = read_edited(tmp_path / "study.yaml", text, Study.read)
    if isinstance(found, Study):
        assert Study.from_document(found.resolved()) == found
    else:
        assert isinstance(found, StudyError)


@FUZZ
@given(text=edited_yaml(COHORT))
def test_an_edited_cohort_is_a_cohort_or_an_error_of_ours(tmp_path, text):
    found = read_edited(tmp_path / "cohort.yaml", text, read_manifest)
    assert isinstance(found, Manifest | CohortError)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("site: centre", "site: &s centre", r"line 6: anchors \(&\) are not read"),
        ("site: centre", "<<: {site: centre}", r"line 6: merges \(<<\) are not read"),
        ("site: centre", "site: !!int x", r"line 6: tags \(!\) are not read"),
        ("site: centre", "site: !local centre", r"line 6: tags \(!\) are not read"),
        ("format: 1", "%YAML 1.1\n---\nformat: 1", r"directives \(%\) but '%YAML 1.2'"),
        ("site: centre", "site: 2001-13-45", "a value cannot be read: month must be"),
        ("site: centre", f"site: {'9' * 5000}", "a value cannot be read: Exceeds the limit"),
        ("site: centre", "~: centre", "a key must be a word or a number"),
        ("site: centre", "? [site]\n: centre", "a key must be a word or a number"),
        ("site: centre", "site: centre\nsite: other", "line 7.*duplicate key"),
        ("site: centre", f"site: {'[' * 300}{']' * 300}", "nested too deeply"),
    ],
)
def test_what_refers_merges_or_changes_a_type_is_refused_with_its_line(tmp_path, old, new, message):
    path = tmp_path / "cohort.yaml"
    path.write_text(COHORT.replace(old, new), encoding="utf-8")
    with pytest.raises(CohortError, match=message):
        read_manifest(path)


def test_a_version_of_yaml_in_which_no_means_false_changes_no_level(tmp_path):
    path = tmp_path / "cohort.yaml"
    path.write_text("%YAML 1.2\n---\n" + COHORT, encoding="utf-8")
    assert read_manifest(path).columns["stage"].levels == ("I", "II", "no", "4")


def test_a_billion_laughs_are_refused_before_they_unfold(tmp_path):
    lines = ["a0: &a0 [ha, ha, ha, ha, ha, ha, ha, ha, ha]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    path = tmp_path / "study.yaml"
    path.write_text("\n".join(lines), encoding="utf-8")
    start = time.process_time()
    with pytest.raises(StudyError, match=r"line 2: aliases \(\*\) are not read"):
        Study.read(path)
    assert time.process_time() - start < 30  # nine to the twelfth would never end

"""The command line parses, calls one step and prints; errors are messages, not tracebacks."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from storm_clinic.cli.main import app, run


@pytest.fixture
def command(monkeypatch, capsys):
    """Run the installed command in this process; returns exit code, stdout, stderr."""

    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["storm-clinic", *words])
        with pytest.raises(SystemExit) as stop:
            run()
        out, err = capsys.readouterr()
        return int(stop.value.code or 0), out, err

    return call


def _commands(group) -> list[list[str]]:
    found = [[c.name or c.callback.__name__.strip("_")] for c in group.registered_commands]
    for inner in group.registered_groups:
        found += [[inner.name, *words] for words in _commands(inner.typer_instance)]
    return found


@pytest.mark.parametrize("words", _commands(app), ids=" ".join)
def test_every_command_shows_an_example_in_its_help(words):
    result = CliRunner().invoke(app, [*words, "--help"])
    assert result.exit_code == 0
    assert f"storm-clinic {' '.join(words)}" in result.output.replace("\n", " ")


def test_a_misspelt_study_is_one_message_with_its_line_and_no_traceback(command, tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text("format: 1\nstudi: x\n")
    code, out, err = command("train", str(path), "-w", str(tmp_path))
    assert code == 1
    assert out == ""
    assert "line 2, studi: unknown key; did you mean 'study'" in " ".join(err.split())
    assert "Traceback" not in err


def test_doctor_prints_json_and_nothing_else(command, tmp_path, monkeypatch):
    monkeypatch.setenv("STORM_CLINIC_SECRET_FILE", str(tmp_path / "elsewhere" / "secret"))
    (tmp_path / "workspace").mkdir()
    _, out, _ = command("doctor", "--json", "-w", str(tmp_path / "workspace"))
    findings = {item["what"]: item for item in json.loads(out)}
    assert findings["Python"]["detail"].startswith(".".join(map(str, sys.version_info[:3])))
    assert findings["institution's secret"]["state"] == "missing"
    assert not (tmp_path / "elsewhere").exists()


def test_doctor_lists_every_encoder_as_json(command):
    from storm_clinic.encoders.catalogue import encoder_names, slide_encoder_names

    code, out, _ = command("doctor", "--encoders", "--json")
    rows = json.loads(out)
    assert code == 0
    assert [row["name"] for row in rows] == [*encoder_names(), *slide_encoder_names()]
    found = {row["name"]: row for row in rows}
    assert found["uni2-h"]["width"] == 1536
    assert found["conch"]["state"] == "no"


def test_doctor_fails_where_the_workspace_is_not_there(command, tmp_path):
    code, out, _ = command("doctor", "-w", str(tmp_path / "nowhere"))
    assert code == 1
    assert "does not exist" in out


def test_slides_that_fail_end_with_code_3_and_their_reason(command, tmp_path):
    (tmp_path / "letter.svs").write_text("Dear colleague,")
    code, out, _ = command("slides", "check", str(tmp_path), "--json", "-j", "1")
    assert code == 3
    rows = json.loads(out)
    assert rows[0]["slide_id"] == "letter"
    assert rows[0]["problems"]


def test_slides_are_checked_by_a_cohorts_table_which_must_be_there(command, tmp_path):
    code, _, err = command("slides", "check", "--cohort", "absent", "-w", str(tmp_path))
    assert code == 1
    assert "absent" in err
    code, _, err = command("slides", "check")
    assert code == 1
    assert "name slides, folders to search, or a cohort" in err


def test_init_then_check_asks_for_what_cannot_be_seen(command, tmp_path):
    table = tmp_path / "patients.csv"
    table.write_text("patient,age,PFI.time,PFI\nA,61,120,0\nB,72,80,1\nC,55,200,0\n")
    code, out, _ = command("init", "site_x", "--clinical", str(table), "-w", str(tmp_path))
    assert code == 0
    assert "to decide" in out
    code, _, err = command("cohort", "check", "site_x", "-w", str(tmp_path))
    assert code == 1
    assert "DECIDE" in err


def test_features_import_takes_in_a_folder_and_lists_it(command, tmp_path):
    import h5py
    import numpy as np

    (tmp_path / "h5").mkdir()
    with h5py.File(tmp_path / "h5" / "S1.h5", "w") as file:
        file["features"] = np.ones((3, 4), dtype=np.float32) * np.arange(4)
    words = ["features", "import", str(tmp_path / "h5"), "--cohort", "x", "--encoder", "toy"]
    code, _, err = command(*words, "-w", str(tmp_path))
    assert code == 1
    assert "--geometry-unknown" in err
    code, out, _ = command(*words, "--geometry-unknown", "-w", str(tmp_path))
    assert code == 0
    assert "1 imported" in out
    _, out, _ = command("features", "list", "--json", "-w", str(tmp_path))
    assert json.loads(out)[0]["tiles"] == 3


def test_features_import_waits_for_no_file_longer_than_it_may(command, tmp_path):
    import os

    import h5py
    import numpy as np

    (tmp_path / "h5").mkdir()
    with h5py.File(tmp_path / "h5" / "S1.h5", "w") as file:
        file["features"] = np.ones((3, 4), dtype=np.float32)
    os.mkfifo(tmp_path / "h5" / "S2.h5")  # waits for somebody to write into it
    words = ["features", "import", str(tmp_path / "h5"), "--cohort", "x", "--encoder", "toy"]
    words += ["--geometry-unknown", "--task-timeout", "5", "--json", "-w", str(tmp_path)]
    code, out, _ = command(*words)
    assert code == 3
    found = json.loads(out)
    assert found["counts"] == {"imported": 1, "failed": 1}
    assert "S2.h5: a reader process hung on it for 5 s" in found["failures"][0]["reason"]


def test_registry_list_of_an_empty_workspace_is_empty(command, tmp_path):
    code, out, _ = command("registry", "list", "--json", "-w", str(tmp_path))
    assert (code, json.loads(out)) == (0, [])


def test_the_package_loads_neither_torch_nor_mlflow_and_names_what_it_has():
    script = (
        "import sys, storm_clinic as sc\n"
        "assert not {'torch', 'mlflow', 'openslide', 'cv2'} & set(sys.modules), 'heavy import'\n"
        "for name in sc.__all__: getattr(sc, name)\n"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", script], check=True)


def test_no_public_name_is_also_a_module():
    import storm_clinic

    folder = Path(storm_clinic.__file__).parent
    modules = {path.stem for path in folder.iterdir()}
    assert not modules & set(storm_clinic.__all__)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--genes", "ERBB2"], "--genes, --min-r and --per-tile go with --storm"),
        (["--per-tile"], "--genes, --min-r and --per-tile go with --storm"),
        (["--storm", "x", "--min-r", "some"], "must be a number or none, is 'some'"),
    ],
)
def test_wishes_about_genes_that_make_no_sense_are_refused(command, tmp_path, words, message):
    code, out, err = command("extract", "--cohort", "toy", "-w", str(tmp_path), *words)
    assert (code, out) == (1, "")
    assert message in " ".join(err.split())

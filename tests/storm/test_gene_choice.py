from __future__ import annotations

import numpy as np
import pytest

from storm_clinic.errors import CheckpointError, InputError
from storm_clinic.storm.gene_choice import choose_genes, read_gene_names
from storm_clinic.storm.genes import GeneVocabulary
from storm_clinic.storm.reliability import GeneReliability
from storm_clinic.storm.shipped import checkpoint_folder, shipped_checkpoints

GENES = GeneVocabulary(("ACTB", "ERBB2", "ESR1", "NECTIN4"), {"HER2": "ERBB2"})
NAN = np.nan
MEASURED = GeneReliability(
    [0.3, 0.6, 0.1, NAN], [0.1, 0.5, -0.1, NAN], [0.5, 0.7, 0.2, NAN], "guess"
)


@pytest.mark.parametrize(
    ("asked", "min_r", "chosen"),
    [
        (None, 0.0, ("ACTB", "ERBB2")),
        (None, 0.2, ("ERBB2",)),
        (None, None, GENES.symbols),
        (["HER2"], 0.0, ("ERBB2",)),
        (["ERBB2", "ACTB", "HER2", "ACTB"], 0.0, ("ACTB", "ERBB2")),
        (["NECTIN4", "ESR1"], None, ("ESR1", "NECTIN4")),
    ],
)
def test_genes_with_evidence_are_imputed_in_the_checkpoints_order(asked, min_r, chosen):
    found = choose_genes(GENES, MEASURED, asked=asked, min_r=min_r)
    assert found.symbols == chosen
    assert [GENES.symbols[place] for place in found.places] == list(chosen)
    for name in ("r", "lower", "upper"):
        np.testing.assert_array_equal(getattr(found, name), getattr(MEASURED, name)[found.places])


def test_a_gene_without_evidence_is_refused_with_both_numbers():
    with pytest.raises(InputError) as refused:
        choose_genes(GENES, MEASURED, asked=["ESR1", "NECTIN4", "ERBB2"])
    message = str(refused.value)
    assert "above 0: ESR1 (r 0.10, lower bound -0.10), NECTIN4 (not evaluated)" in message
    assert "--min-r none" in message
    assert "ERBB2" not in message


def test_where_no_gene_has_evidence_none_is_imputed():
    assert choose_genes(GENES, MEASURED, min_r=0.9) is None
    assert choose_genes(GENES, None) is None


@pytest.mark.parametrize("options", [{"asked": ["ESR1"]}, {"min_r": None}])
def test_a_checkpoint_that_was_never_evaluated_imputes_nothing_for_anybody(options):
    with pytest.raises(InputError, match="states for no gene how well"):
        choose_genes(GENES, None, **options)


def test_an_unknown_gene_is_named_with_one_that_is_meant():
    with pytest.raises(InputError, match=r"does not know ERBB3.*Did you mean ERBB2\?"):
        choose_genes(GENES, MEASURED, asked=["ERBB3"])


def test_names_come_from_a_file_or_from_text(tmp_path):
    path = tmp_path / "panel.txt"
    path.write_text("# breast\nESR1\n\n ERBB2 \n")
    assert read_gene_names(path) == read_gene_names(str(path)) == ["ESR1", "ERBB2"]
    assert read_gene_names("ESR1, ERBB2") == read_gene_names(["ESR1", "ERBB2"])
    with pytest.raises(InputError, match="names no gene"):
        read_gene_names(" , ")


def test_a_checkpoint_is_found_by_folder_or_by_name(tmp_path, monkeypatch):
    monkeypatch.setattr("storm_clinic.storm.shipped.SHIPPED", tmp_path / "shipped")
    for folder in (tmp_path / "mine", tmp_path / "shipped" / "storm-tiny"):
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")
    assert shipped_checkpoints() == ["storm-tiny"]
    assert checkpoint_folder("storm-tiny") == tmp_path / "shipped" / "storm-tiny"
    assert checkpoint_folder(tmp_path / "mine") == tmp_path / "mine"
    monkeypatch.chdir(tmp_path / "mine")
    assert checkpoint_folder(".") == tmp_path / "mine"
    with pytest.raises(CheckpointError, match=r"Did you mean storm-tiny\? Shipped are: storm-tiny"):
        checkpoint_folder("storm-tny")
    with pytest.raises(CheckpointError, match="neither the folder"):
        checkpoint_folder("../shipped")

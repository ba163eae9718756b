"""Imputed genes on the page: called imputed, each beside how well it is imputed."""

from __future__ import annotations

import re

from storm_clinic.reporting.analysis_sections import analysis_blocks
from storm_clinic.reporting.page import render
from storm_clinic.reporting.tables import Table


def test_every_gene_is_called_imputed_and_stands_beside_its_held_out_correlation(full):
    tables = [b for b in analysis_blocks(full)["imputed-genes"] if isinstance(b, Table)]
    for table in tables:
        assert [(row.cells[0].text, row.cells[0].below) for row in table.rows] == [
            ("ERBB2", "imputed"),
            ("GNAS", "imputed"),
            ("MKI67", "imputed"),
        ]
        assert [row.cells[4].text for row in table.rows] == ["0.52", "0.52", "–"]
        assert table.rows[0].cells[4].below == "0.41 to 0.61"
        assert [row.cells[3].text for row in table.rows] == ["100%", "60%", "20%"]
        assert {record["expression"] for record in table.records} == {"imputed"}
        assert table.label == "exploratory"


def test_the_section_says_what_folds_agree_on_and_what_was_left_out(full):
    text = re.sub(r"<[^>]*>", " ", render(full))
    text = " ".join(text.split())
    assert "1 genes are" not in text
    assert "1 gene is among the top 10 in all 5 folds" in text
    assert "folds rank all genes with a correlation of 0.63" in text
    assert "histology 40% and imputed genes of tiles 60%" in text
    assert "Expression is imputed from H&amp;E, not measured" in text
    assert "2 patients are left out, as their shares do not sum" in text

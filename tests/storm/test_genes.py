from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from storm_clinic.errors import SectionError
from storm_clinic.storm.genes import GeneVocabulary, read_aliases
from storm_clinic.storm.known_renames import KNOWN_RENAMES
from storm_clinic.storm.targets import log1p_cp10k

GENES = GeneVocabulary(("ACTB", "ERBB2", "NECTIN4", "TP53"), {"PVRL4": "NECTIN4", "HER2": "ERBB2"})


def test_a_panel_is_a_mask_over_the_vocabulary():
    panel = GENES.panel(["TP53", "PVRL4", "MALAT1"])
    assert panel.mask.tolist() == [False, False, True, True]
    assert panel.columns.tolist() == [3, 2, -1]
    assert panel.unknown == ("MALAT1",)


def test_counts_land_on_their_genes_and_columns_of_one_gene_add_up():
    panel = GENES.panel(["TP53", "MALAT1", "TP53", "HER2"])
    counts = sparse.csr_array(np.array([[1, 100, 2, 5], [0, 7, 4, 0]], dtype=np.int32))
    assert panel.gather(counts).toarray().tolist() == [[0, 5, 0, 3], [0, 0, 0, 4]]
    with pytest.raises(SectionError, match="3 columns of counts do not go with a panel of 4"):
        panel.gather(counts[:, :3])


def test_two_names_of_one_gene_in_one_panel_are_refused_by_name():
    with pytest.raises(SectionError, match=r"NECTIN4 and PVRL4 \(both NECTIN4\)"):
        GENES.panel(["PVRL4", "ACTB", "NECTIN4"])


def test_the_vocabulary_of_panels_is_sorted_and_under_today_s_names():
    found = GeneVocabulary.of_panels([["TP53", "PVRL4"], ["CTGF", "TP53"]])
    assert found.symbols == ("CCN2", "NECTIN4", "TP53")
    assert found.aliases == {"CTGF": "CCN2", "PVRL4": "NECTIN4"}
    # The order in which panels come must not matter.
    assert found.digest == GeneVocabulary.of_panels([["CTGF", "TP53"], ["TP53", "PVRL4"]]).digest


def test_the_digest_knows_symbols_order_and_aliases():
    others = [
        GeneVocabulary(GENES.symbols[::-1], GENES.aliases),
        GeneVocabulary(GENES.symbols, {"PVRL4": "NECTIN4"}),
        GeneVocabulary((*GENES.symbols, "ESR1"), GENES.aliases),
    ]
    assert len({GENES.digest, *(other.digest for other in others)}) == 4
    assert GeneVocabulary.from_json(GENES.to_json()).digest == GENES.digest


@pytest.mark.parametrize(
    ("symbols", "aliases", "message"),
    [
        (("A", "B", "A"), {}, "symbols occur twice: A"),
        (("A", ""), {}, "a symbol is empty"),
        (("A", "B"), {"B": "A"}, "symbols of their own: B"),
        (("A",), {"C": "D", "D": "A"}, "lead to other aliases: C"),
    ],
)
def test_a_vocabulary_that_contradicts_itself_is_refused(symbols, aliases, message):
    with pytest.raises(SectionError, match=message):
        GeneVocabulary(symbols, aliases)


def test_no_known_rename_leads_to_another():
    assert not KNOWN_RENAMES.keys() & set(KNOWN_RENAMES.values())
    assert len(set(KNOWN_RENAMES.values())) == len(KNOWN_RENAMES)


def test_aliases_are_read_from_a_table(tmp_path):
    path = tmp_path / "aliases.tsv"
    path.write_text("symbol\talias\nERBB2\tHER2\nNA1\tNA\nERBB2\tNEU\n")
    # "NA" is a name here, not a missing value.
    assert read_aliases(path) == {"HER2": "ERBB2", "NA": "NA1", "NEU": "ERBB2"}
    path.write_text("symbol\talias\nERBB2\tNEU\nNEURL1\tNEU\n")
    with pytest.raises(SectionError, match="line 3: alias NEU has two symbols: ERBB2 and NEURL1"):
        read_aliases(path)
    path.write_text("symbol\tname\nERBB2\tNEU\n")
    with pytest.raises(SectionError, match="has no column alias"):
        read_aliases(path)
    path.write_text("symbol\talias\nERBB2\t\n")
    with pytest.raises(SectionError, match="line 2: alias or symbol is empty"):
        read_aliases(path)


def test_the_target_is_what_its_formula_says_and_the_library_stands_beside():
    panel = GENES.panel(["TP53", "MALAT1", "HER2"])
    counts = sparse.csr_array(np.array([[1, 1000, 3], [0, 9, 0]], dtype=np.int32))
    values, library = log1p_cp10k(counts, panel)
    # MALAT1 is outside the vocabulary: it neither appears nor dilutes.
    assert library.tolist() == [4, 0]
    assert values[0] == pytest.approx([0, np.log(7501), 0, np.log(2501)], rel=1e-6)
    assert (values[1] == 0).all()
    assert values.dtype == np.float32


def test_sequencing_ten_times_as_deep_leaves_the_target_as_it_is():
    panel = GENES.panel(GENES.symbols)
    counts = np.random.default_rng(0).integers(0, 20, (50, 4))
    plain = log1p_cp10k(sparse.csr_array(counts), panel)
    deep = log1p_cp10k(sparse.csr_array(10 * counts), panel)
    np.testing.assert_allclose(deep.values, plain.values, rtol=1e-6)
    np.testing.assert_array_equal(deep.library, 10 * plain.library)

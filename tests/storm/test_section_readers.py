"""Small files of each layout, written as their makers write them, and read back."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from storm_clinic.errors import SectionError
from storm_clinic.features.lost_tasks import TimeLimits
from storm_clinic.storm.annotated import read_h5ad, read_hest
from storm_clinic.storm.neighbourhood import neighbourhoods
from storm_clinic.storm.space_ranger import read_space_ranger
from storm_clinic.storm.transcripts import read_cosmx, read_xenium

N_ROWS, N_COLUMNS, MPP = 8, 10, 0.4
POSITIONS = ["barcode", "in_tissue", "array_row", "array_col"]
POSITIONS += ["pxl_row_in_fullres", "pxl_col_in_fullres"]
COUNTS = np.random.default_rng(0).integers(0, 9, (N_ROWS * N_COLUMNS, 4))


def visium_positions() -> pd.DataFrame:
    row, k = np.divmod(np.arange(N_ROWS * N_COLUMNS), N_COLUMNS)
    column = 2 * k + row % 2
    table = pd.DataFrame({"barcode": [f"BC{n:03d}-1" for n in range(len(row))], "in_tissue": 1})
    table["array_row"], table["array_col"] = row, column
    table["pxl_row_in_fullres"] = 1000 + row * 100 * np.sqrt(3) / 2 / MPP
    table["pxl_col_in_fullres"] = 2000 + column * 50 / MPP
    table.loc[[3, 4], "in_tissue"] = 0
    return table


def write_matrix(path: Path, barcodes) -> None:
    by_gene = sparse.csc_array(COUNTS[: len(barcodes)].T)  # genes x barcodes, by barcode
    with h5py.File(path, "w") as file:
        matrix = file.create_group("matrix")
        matrix["barcodes"] = np.array(barcodes, dtype="S")
        for name in ("data", "indices", "indptr"):
            matrix[name] = getattr(by_gene, name)
        matrix["shape"] = by_gene.shape
        matrix["features/name"] = np.array(["A", "B", "CD3", "A"], dtype="S")
        kinds = ["Gene Expression", "Gene Expression", "Antibody Capture", "Gene Expression"]
        matrix["features/feature_type"] = np.array(kinds, dtype="S")


def write_space_ranger(folder: Path, table: pd.DataFrame, style: str, scale: dict) -> Path:
    spatial = folder / "spatial"
    spatial.mkdir(parents=True)
    kept = table[table["in_tissue"] == 1]
    write_matrix(folder / "filtered_feature_bc_matrix.h5", list(kept["barcode"])[::-1])
    if style == "list":
        table.to_csv(spatial / "tissue_positions_list.csv", header=False, index=False)
    elif style == "csv":
        table.to_csv(spatial / "tissue_positions.csv", index=False)
    else:
        table.to_parquet(spatial / "tissue_positions.parquet")
    (spatial / "scalefactors_json.json").write_text(json.dumps(scale))
    return folder


@pytest.mark.parametrize("style", ["list", "csv"])
def test_a_visium_folder_is_read_with_the_scale_of_its_array(tmp_path, style):
    table = visium_positions()
    folder = write_space_ranger(tmp_path, table, style, {"spot_diameter_fullres": 150.0})
    section = read_space_ranger(folder, name="v", patient="p")
    assert section.technology == "visium"
    assert (section.spot_um, section.pitch_um, section.grid) == (55.0, 100.0, "hexagonal")
    assert section.mpp == pytest.approx(MPP)
    assert section.left_out == {"not under tissue": 2}
    # The matrix holds barcodes backwards; the antibody is no gene.
    assert section.symbols == ("A", "B", "A")
    assert section.spots[0] == "BC000-1"
    assert section.counts[[0]].toarray()[0].tolist() == COUNTS[77][[0, 1, 3]].tolist()
    assert section.centres_px[1].tolist() == [2000 + 100 / MPP, 1000]
    around = neighbourhoods(section.centres_um, pitch_um=100.0, grid="hexagonal", side=3)
    assert around.valid.sum(axis=1).max() == 9


def test_a_turned_visium_array_has_the_same_scale(tmp_path):
    table = visium_positions()
    pixels = ["pxl_col_in_fullres", "pxl_row_in_fullres"]
    table[pixels] = table[pixels].to_numpy() @ np.array([[0.8, 0.6], [-0.6, 0.8]])
    folder = write_space_ranger(tmp_path, table, "csv", {})
    assert read_space_ranger(folder, name="v", patient="p").mpp == pytest.approx(MPP)
    with pytest.raises(SectionError, match=r"0\.5 µm per pixel were given, .* lie at 0\.4"):
        read_space_ranger(folder, name="v", patient="p", mpp=0.5)


def test_visium_hd_bins_are_read_with_their_own_scale(tmp_path):
    row, column = np.divmod(np.arange(20), 5)
    table = pd.DataFrame({"barcode": [f"s_008um_{n}-1" for n in range(20)], "in_tissue": 1})
    table["array_row"], table["array_col"] = row, column
    table["pxl_row_in_fullres"], table["pxl_col_in_fullres"] = row * 20.0, column * 20.0
    scale = {"bin_size_um": 8.0, "microns_per_pixel": 0.4}
    folder = write_space_ranger(tmp_path, table, "parquet", scale)
    section = read_space_ranger(folder, name="hd", patient="p")
    assert (section.technology, section.grid) == ("visium_hd", "square")
    assert (section.spot_um, section.pitch_um, section.mpp) == (8.0, 8.0, 0.4)
    around = neighbourhoods(section.centres_um, pitch_um=section.pitch_um, side=3)
    assert around.rows[6].tolist() == [0, 1, 2, 5, 6, 7, 10, 11, 12]


def test_a_folder_that_lacks_a_part_is_refused_by_the_part_s_name(tmp_path):
    folder = write_space_ranger(tmp_path, visium_positions(), "csv", {"bin_size_um": 8.0})
    with pytest.raises(SectionError, match="states no microns_per_pixel"):
        read_space_ranger(folder, name="v", patient="p")
    (folder / "spatial" / "tissue_positions.csv").unlink()
    with pytest.raises(SectionError, match=r"holds none of tissue_positions\.parquet"):
        read_space_ranger(folder, name="v", patient="p")
    (folder / "filtered_feature_bc_matrix.h5").write_bytes(b"x")
    with pytest.raises(SectionError, match="is no matrix of Space Ranger"):
        read_space_ranger(folder, name="v", patient="p")


def write_h5ad(path: Path) -> Path:
    anndata = pytest.importorskip("anndata")
    path.parent.mkdir(parents=True, exist_ok=True)
    names = [f"spot{n}" for n in range(6)]
    table = anndata.AnnData(
        X=sparse.csr_matrix(COUNTS[:6].astype(np.float32)),
        obs=pd.DataFrame(index=names),
        var=pd.DataFrame(index=list("ABCD")),
        obsm={"spatial": np.arange(12.0).reshape(6, 2) * 100},
        layers={"log": np.log1p(COUNTS[:6].astype(np.float32))},
    )
    table.write_h5ad(path)
    return path


HOW = {
    "patient": "p",
    "technology": "visium",
    "grid": "hexagonal",
    "spot_um": 55.0,
    "pitch_um": 100.0,
    "mpp": 0.5,
}


def test_any_h5ad_with_places_is_read(tmp_path):
    path = write_h5ad(tmp_path / "x.h5ad")
    section = read_h5ad(path, **HOW)
    assert section.name == "x"
    assert section.counts.toarray().tolist() == COUNTS[:6].tolist()
    assert section.centres_um[1].tolist() == [100, 150]
    with pytest.raises(SectionError, match="no raw counts"):
        read_h5ad(path, **HOW, layer="log")
    with pytest.raises(SectionError, match="has no layer 'raw'"):
        read_h5ad(path, **HOW, layer="raw")


def test_an_h5ad_says_what_to_install_and_what_it_lacks(tmp_path, monkeypatch):
    path = write_h5ad(tmp_path / "x.h5ad")
    with h5py.File(path, "r+") as file:
        del file["obsm/spatial"]
    with pytest.raises(SectionError, match="has no obsm"):
        read_h5ad(path, **HOW)
    (tmp_path / "y.h5ad").write_bytes(b"x")
    with pytest.raises(SectionError, match=r"y\.h5ad: is no readable"):
        read_h5ad(tmp_path / "y.h5ad", **HOW)
    monkeypatch.setitem(sys.modules, "anndata", None)
    with pytest.raises(SectionError, match=r"pip install 'storm-clinic\[storm\]'"):
        read_h5ad(path, **HOW)


def test_a_file_whose_reading_never_ends_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("storm_clinic.storm.section_reading._LIMITS", TimeLimits(task_s=1.0))
    os.mkfifo(tmp_path / "x.h5ad")  # waits for somebody to write into it
    with pytest.raises(SectionError, match=r"x\.h5ad: a reader process hung on it for 1 s"):
        read_h5ad(tmp_path / "x.h5ad", **HOW)
    folder = write_space_ranger(tmp_path, visium_positions(), "csv", {})
    matrix = folder / "filtered_feature_bc_matrix.h5"
    matrix.unlink()
    os.mkfifo(matrix)
    with pytest.raises(SectionError, match=r"matrix\.h5: a reader process hung on it for 1 s"):
        read_space_ranger(folder, name="v", patient="p")


def test_a_sample_of_hest_is_read_with_the_pixel_size_of_its_spots(tmp_path):
    write_h5ad(tmp_path / "st" / "T1.h5ad")
    facts = {
        "st_technology": "Spatial Transcriptomics",
        "patient": "Patient 3",
        "pixel_size_um_embedded": 1.0,
        "pixel_size_um_estimated": 0.68,
        "spot_diameter": 100.0,
        "inter_spot_dist": 200.0,
    }
    about = tmp_path / "metadata" / "T1.json"
    about.parent.mkdir()
    about.write_text(json.dumps(facts))
    section = read_hest(tmp_path, "T1")
    assert (section.patient, section.technology, section.grid) == ("Patient 3", "st", "square")
    assert (section.mpp, section.spot_um, section.pitch_um) == (0.68, 100.0, 200.0)
    assert section.image is None
    about.write_text(json.dumps({**facts, "inter_spot_dist": float("nan"), "patient": None}))
    with pytest.raises(SectionError, match="states no inter_spot_dist"):
        read_hest(tmp_path, "T1")
    about.write_text(json.dumps({**facts, "patient": None}))
    assert read_hest(tmp_path, "T1").patient == "T1"
    about.write_text(json.dumps({**facts, "st_technology": "Slide-seq"}))
    with pytest.raises(SectionError, match="'Slide-seq', not one of Visium"):
        read_hest(tmp_path, "T1")


TRANSCRIPTS = pd.DataFrame(
    {
        "feature_name": ["B", "A", "A", "B", "A", "NegControlProbe_1", "A"],
        "x_location": [1.0, 2.0, 54.9, 55.1, 60.0, 3.0, 4.0],
        "y_location": [1.0, 2.0, 3.0, 4.0, 60.0, 5.0, 6.0],
        "qv": [30.0, 20.0, 40.0, 40.0, 40.0, 40.0, 19.9],
    }
)


@pytest.mark.parametrize("ending", [".parquet", ".csv.gz"])
def test_xenium_transcripts_fall_into_bins_of_55_microns(tmp_path, ending):
    path = tmp_path / f"transcripts{ending}"
    if ending == ".parquet":
        TRANSCRIPTS.to_parquet(path)
    else:
        TRANSCRIPTS.to_csv(path, index=False)
    section = read_xenium(path, name="x", patient="p", mpp=0.5)
    assert section.symbols == ("A", "B")
    assert section.spots == ("0x0", "1x0", "1x1")
    assert section.counts.toarray().tolist() == [[2, 1], [0, 1], [1, 0]]
    assert section.centres_um.tolist() == [[27.5, 27.5], [82.5, 27.5], [82.5, 82.5]]
    assert section.left_out == {
        "transcripts of low quality": 1,
        "transcripts of control probes": 1,
    }


def test_a_stated_panel_keeps_genes_that_nobody_saw_and_drops_the_rest(tmp_path):
    path = tmp_path / "transcripts.parquet"
    TRANSCRIPTS.to_parquet(path)
    section = read_xenium(path, name="x", patient="p", mpp=0.5, genes=["Z", "A"])
    assert section.symbols == ("Z", "A")
    assert section.counts.toarray().tolist() == [[0, 2], [0, 1]]
    assert section.left_out["transcripts outside the panel"] == 2


def test_the_parts_in_which_a_long_file_is_read_do_not_show(tmp_path, monkeypatch):
    path = tmp_path / "transcripts.parquet"
    TRANSCRIPTS.to_parquet(path)
    whole = read_xenium(path, name="x", patient="p", mpp=0.5)
    monkeypatch.setattr("storm_clinic.storm.transcripts._ROWS", 2)
    parts = read_xenium(path, name="x", patient="p", mpp=0.5)
    assert parts.counts.toarray().tolist() == whole.counts.toarray().tolist()
    assert (parts.spots, parts.symbols) == (whole.spots, whole.symbols)


def test_a_registration_puts_transcripts_onto_the_image(tmp_path):
    path = tmp_path / "transcripts.parquet"
    TRANSCRIPTS.to_parquet(path)
    quarter_turn = np.array([[0.0, -2.0, 1000.0], [2.0, 0.0, 10.0]])  # 2 px a µm
    section = read_xenium(path, name="x", patient="p", mpp=0.5, to_image=quarter_turn)
    assert section.centres_px[1].tolist() == [1000 - 2 * 27.5, 10 + 2 * 82.5]
    with pytest.raises(SectionError, match=r"says 0\.5 µm per pixel, mpp says 0\.25"):
        read_xenium(path, name="x", patient="p", mpp=0.25, to_image=quarter_turn)


def test_cosmx_places_are_pixels_of_its_own(tmp_path):
    path = tmp_path / "s_tx_file.csv"
    table = pd.DataFrame(
        {
            "target": ["A", "NegPrb3", "SystemControl7", "B"],
            "x_global_px": [100.0, 100.0, 100.0, 600.0],
            "y_global_px": [100.0, 100.0, 100.0, 100.0],
        }
    )
    table.to_csv(path, index=False)
    section = read_cosmx(path, name="c", patient="p", transcript_mpp=0.12, mpp=0.25)
    assert section.spots == ("0x0", "1x0")  # 12 and 72 µm
    assert section.counts.toarray().tolist() == [[1, 0], [0, 1]]
    assert section.centres_um[1].tolist() == [82.5, 27.5]
    assert section.left_out == {"transcripts of control probes": 2}


def test_a_table_of_something_else_is_refused(tmp_path):
    path = tmp_path / "transcripts.parquet"
    TRANSCRIPTS.drop(columns="qv").to_parquet(path)
    with pytest.raises(SectionError, match="qv"):
        read_xenium(path, name="x", patient="p", mpp=0.5)
    TRANSCRIPTS.assign(x_location=np.nan).to_parquet(path)
    with pytest.raises(SectionError, match="lacks its gene, place or quality"):
        read_xenium(path, name="x", patient="p", mpp=0.5)
    TRANSCRIPTS.assign(qv=0.0).to_parquet(path)
    with pytest.raises(SectionError, match="no transcript is left"):
        read_xenium(path, name="x", patient="p", mpp=0.5)

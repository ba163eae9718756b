"""The verb `explain`, end to end on simulated hospitals and on slides that are there or not."""

from __future__ import annotations

import numpy as np
import pandas as pd
from PIL import Image

from storm_clinic.explanations.maps import SlideMap
from storm_clinic.steps.explanation import explain
from storm_clinic.steps.explanation_files import write_slide


def test_risks_of_a_model_are_explained_without_a_single_patient_id(finished, tmp_path):
    workspace, result = finished
    found = explain(result.model, cohort="south", out=tmp_path, patients=4, workspace=workspace)
    assert found.table["patient_key"].nunique() == 4
    assert found.table["occlusion"].all()
    assert found.table["attention"].all()
    # These embeddings came without places: the tables are written, and the reason is given.
    assert set(found.table["reason"]) == {"the position of tiles on the slide is not known"}
    tiles = pd.read_csv(tmp_path / "tiles.csv")
    assert tiles.groupby("patient_key")["attention"].mean().to_numpy().round(4).tolist() == [1] * 4
    # The first feature is what drives the simulated outcome: such tiles raise the risk.
    assert found.faithfulness["occlusion"].lower > 0
    assert (tmp_path / "deletion.png").stat().st_size > 1000
    text = "".join(p.read_text() for p in tmp_path.iterdir() if p.suffix in (".csv", ".html"))
    slides = set(found.table["slide_id"])
    for slide in slides:
        text = text.replace(slide, "")
    assert "SOUTH-" not in text


def test_a_picture_lies_over_the_slide_and_a_bad_slide_stops_nothing(tmp_path, write_tissue_slide):
    slide = write_tissue_slide(tmp_path / "s.tiff", size=(768, 512))
    map_ = SlideMap(
        "s", np.array([[128, 128], [352, 128]]), 224.0, 0.5, {"occlusion": np.array([0.4, -0.4])}
    )
    out = tmp_path / "out"
    out.mkdir()
    assert write_slide(out, map_, str(slide)) is None
    with Image.open(out / "s-occlusion.png") as image:
        assert min(image.size) > 200
    slide.write_bytes(slide.read_bytes()[:2000])
    assert "no picture" in write_slide(out, map_, str(slide))
    assert "not on this machine" in write_slide(out, map_, str(tmp_path / "gone.tiff"))
    assert (out / "s.geojson").exists()
    assert (out / "s.ome.tiff").exists()

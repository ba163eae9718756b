"""Tiles that are decoded here: the same pixels, and the same refusals, as by OpenSlide alone."""

from __future__ import annotations

import io

import numpy as np
import openslide
import pytest
import tifffile
from PIL import Image

from storm_clinic.errors import UnreadableSlide
from storm_clinic.slides import native_tiles
from storm_clinic.slides.jpeg_levels import JpegLevel
from storm_clinic.slides.reader import open_slide
from storm_clinic.slides.whole_slide import READ_WITH

SVS = "slides/CMU-1-Small-Region.svs"


@pytest.fixture
def open_with_openslide(monkeypatch):
    """Open a slide that OpenSlide alone reads."""

    def open_it(path):
        slide = open_slide(path, mpp_override=0.5)
        with monkeypatch.context() as patch:
            patch.setenv(READ_WITH, "openslide")
            assert slide._handle._tiles.levels == {}  # settled here, for good
        return slide

    return open_it


@pytest.fixture
def write_jpeg_slide(texture):
    """Write the texture, 1200 x 900 px, as tiles of 128 px that Pillow has encoded."""

    def write(path, *, photometric="ycbcr", subsampling=0, adjust=bytes, pixels=texture, **options):
        height, width = pixels.shape[:2]
        padded = np.pad(pixels, ((0, -height % 128), (0, -width % 128), (0, 0)), mode="edge")
        streams = []
        for y in range(0, height, 128):
            for x in range(0, width, 128):
                memory = io.BytesIO()
                tile = Image.fromarray(padded[y : y + 128, x : x + 128])
                tile.save(memory, "jpeg", quality=70, subsampling=subsampling, **options)
                streams.append(adjust(memory.getvalue()))
        tifffile.imwrite(
            path,
            iter(streams),
            shape=(height, width, 3),
            dtype=np.uint8,
            tile=(128, 128),
            compression="jpeg",
            photometric=photometric,
            metadata=None,
            resolution=(20_000, 20_000),
            resolutionunit="CENTIMETER",
        )
        return path

    return write


def by_pillow(path, corner, size):
    with openslide.OpenSlide(path) as slide:
        return np.asarray(slide.read_region(corner, 0, size).convert("RGB"))


def native_levels(slide):
    return slide._handle._proven


def test_a_real_slide_has_the_pixels_that_openslide_reads(shared_data):
    rng = np.random.default_rng(1)
    with open_slide(shared_data / SVS) as slide:
        for _ in range(15):
            width, height = (int(n) for n in rng.integers(1, 600, 2))
            x, y = int(rng.integers(0, 2220 - width)), int(rng.integers(0, 2967 - height))
            made = slide.read((x, y), (width, height), slide.mpp)
            wanted = by_pillow(shared_data / SVS, (x, y), (width, height))
            np.testing.assert_array_equal(made, wanted)
        assert native_levels(slide) == {0}


@pytest.mark.parametrize("mpp", [0.4, 0.502, 0.8, 1.0, 2.3])
def test_resampled_pixels_of_a_real_slide_are_the_same(shared_data, open_with_openslide, mpp):
    with (
        open_slide(shared_data / SVS, mpp_override=0.5) as slide,
        open_with_openslide(shared_data / SVS) as slow,
    ):
        # The last reaches over the slide's edge.
        for corner in [(0, 0), (777, 1303), (2100, 2900)]:
            np.testing.assert_array_equal(
                slide.read(corner, 224, mpp), slow.read(corner, 224, mpp), strict=True
            )


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("photometric", ["ycbcr", "rgb"])
def test_colours_and_subsampling_are_taken_as_openslide_takes_them(
    tmp_path, write_jpeg_slide, photometric, subsampling
):
    # Pillow's streams say in a JFIF header that they hold YCbCr; the directory may say otherwise.
    path = write_jpeg_slide(tmp_path / "a.tiff", photometric=photometric, subsampling=subsampling)
    with open_slide(path) as slide:
        made = slide.read((0, 0), (1200, 900), 0.5)
        assert native_levels(slide) == {0}
    np.testing.assert_array_equal(made, by_pillow(path, (0, 0), (1200, 900)))


@pytest.mark.parametrize("transform", [0, 1])
def test_an_adobe_marker_of_a_tile_does_not_outweigh_the_directory(
    tmp_path, write_jpeg_slide, transform
):
    marker = b"\xff\xee\x00\x0eAdobe\x00\x64" + bytes(4) + bytes([transform])
    path = write_jpeg_slide(
        tmp_path / "a.tiff", adjust=lambda stream: stream[:2] + marker + stream[20:]
    )
    with open_slide(path) as slide:
        made = slide.read((0, 0), (300, 300), 0.5)
        assert native_levels(slide) == {0}
    np.testing.assert_array_equal(made, by_pillow(path, (0, 0), (300, 300)))


def test_levels_that_are_a_whole_factor_smaller_are_decoded_here(
    tmp_path, write_slide, texture, open_with_openslide
):
    # 900 is no multiple of 8: OpenSlide interpolates between the pixels of that level.
    path = write_slide(
        tmp_path / "a.tiff", texture, mpp=0.5, downsamples=(1, 2, 4, 8), compression="jpeg"
    )
    with open_slide(path, mpp_override=0.5) as slide, open_with_openslide(path) as slow:
        for mpp in (0.5, 1.0, 2.0, 4.0):
            made, wanted = (one.read((64, 32), 90, mpp) for one in (slide, slow))
            np.testing.assert_array_equal(made, wanted)
        assert native_levels(slide) == {0, 1, 2}


@pytest.mark.parametrize("options", [{"progressive": True}, {"restart_marker_blocks": 3}])
def test_unusual_streams_give_the_same_pixels(tmp_path, write_jpeg_slide, options):
    path = write_jpeg_slide(tmp_path / "a.tiff", **options)
    with open_slide(path) as slide:
        made = slide.read((0, 0), (1200, 900), 0.5)
    np.testing.assert_array_equal(made, by_pillow(path, (0, 0), (1200, 900)))


@pytest.mark.parametrize("compression", ["deflate", "lzw", None])
def test_other_compressions_are_left_to_openslide(tmp_path, write_slide, texture, compression):
    path = write_slide(tmp_path / "a.tiff", texture, mpp=0.5, compression=compression)
    with open_slide(path) as slide:
        np.testing.assert_array_equal(slide.read((5, 5), 300, 0.5), texture[5:305, 5:305])
        assert slide._handle._tiles.levels == {}


def test_a_missing_tile_is_background_and_its_neighbours_are_decoded(
    tmp_path, write_jpeg_slide, open_with_openslide
):
    path = write_jpeg_slide(tmp_path / "a.tiff")
    _point(path, tile=1, n_bytes=0)
    with open_slide(path, mpp_override=0.5) as slide, open_with_openslide(path) as slow:
        for corner in [(0, 0), (100, 0), (256, 128)]:
            np.testing.assert_array_equal(slide.read(corner, 100, 0.5), slow.read(corner, 100, 0.5))
        assert (slide.read((130, 0), 100, 0.5) == 255).all()
        assert native_levels(slide) == {0}


@pytest.mark.parametrize("share", [0.0, 0.3, 0.97, 5000.0])
def test_a_tile_of_a_wrong_length_is_unreadable_and_the_others_are_not(
    tmp_path, write_jpeg_slide, share
):
    path = write_jpeg_slide(tmp_path / "a.tiff")
    undamaged = by_pillow(path, (384, 0), (128, 128))
    with tifffile.TiffFile(path) as tiff:
        whole = tiff.pages[0].databytecounts[1]
    _point(path, tile=1, n_bytes=max(4, int(whole * share)))
    with open_slide(path) as slide:
        slide.read((0, 0), 128, 0.5)
        for _ in range(2):
            with pytest.raises(UnreadableSlide, match="cannot be decoded"):
                slide.read((100, 0), 128, 0.5)
            np.testing.assert_array_equal(slide.read((384, 0), 128, 0.5), undamaged)
        assert native_levels(slide) == {0}


def test_damage_anywhere_in_a_tile_has_the_outcome_that_it_has_with_openslide(
    tmp_path, write_jpeg_slide, open_with_openslide
):
    path = write_jpeg_slide(tmp_path / "a.tiff", subsampling="4:2:0")
    with tifffile.TiffFile(path) as tiff:
        start, n_bytes = tiff.pages[0].dataoffsets[12], tiff.pages[0].databytecounts[12]
    whole = path.read_bytes()
    rng = np.random.default_rng(11)
    corner, outcomes = (256, 128), []
    for trial in range(60):
        damaged = bytearray(whole)
        # Half of them in the 620 bytes of headers, where most depends on a bit.
        for at in rng.integers(0, 620 if trial % 2 else n_bytes, 1 + trial % 3).tolist():
            damaged[start + at] ^= 1 << int(rng.integers(0, 8))
        path.write_bytes(damaged)
        with open_slide(path, mpp_override=0.5) as slide, open_with_openslide(path) as slow:
            slide.read((0, 0), 8, 0.5)  # so that the level is proven on another tile
            made, wanted = (_pixels_or_none(one, corner) for one in (slide, slow))
        if wanted is None or made is None:
            assert wanted is made is None, trial
        else:
            np.testing.assert_array_equal(made, wanted, err_msg=str(trial))
        outcomes.append(wanted is None)
    assert 10 < sum(outcomes) < 50  # both happen


def test_each_tile_is_decoded_once_and_only_where_something_is_read(
    tmp_path, write_jpeg_slide, monkeypatch
):
    path = write_jpeg_slide(tmp_path / "a.tiff")
    n_decoded = _count_decodings(monkeypatch)
    with open_slide(path) as slide:
        for y in range(128, 640, 64):
            for x in range(256, 768, 64):
                slide.read((x, y), 100, 0.5)
    # From 256 to 804 are columns 2 to 6, from 128 to 676 rows 1 to 5.
    assert n_decoded() == 5 * 5


@pytest.mark.parametrize("corner", [(256, 128), (130, 70), (131, 77)])
@pytest.mark.parametrize("side", [2, 3, 4])
def test_means_of_squares_are_those_of_the_pixels_that_openslide_reads(
    tmp_path, write_jpeg_slide, side, corner
):
    path = write_jpeg_slide(tmp_path / "a.tiff")
    with open_slide(path) as slide:
        made = slide.read(corner, (110, 90), side * 0.5)
        assert native_levels(slide) == {0}
    pixels = by_pillow(path, corner, (110 * side, 90 * side))
    squares = pixels.reshape(90, side, 110, side, 3).astype(np.float64)
    # To the nearest number; halves, of which libraries disagree, either way.
    assert np.abs(made - squares.mean(axis=(1, 3))).max() <= 0.5


def test_of_tiles_that_are_averaged_only_the_means_are_kept(
    tmp_path, write_jpeg_slide, monkeypatch
):
    path = write_jpeg_slide(tmp_path / "a.tiff")
    n_decoded = _count_decodings(monkeypatch)
    with open_slide(path) as slide:
        for y in range(0, 640, 128):
            for x in range(0, 1024, 128):
                slide.read((x, y), 64, 1.0)
        kept = slide._handle._tiles._kept
        # The first tile is also read as it is, to hold it against OpenSlide's.
        assert n_decoded() == 5 * 8 + 1
        assert {tile.shape for (*_, side), tile in kept.items() if side == 2} == {(64, 64, 3)}


def test_a_slide_that_is_read_row_by_row_takes_memory_for_few_rows(
    tmp_path, write_jpeg_slide, monkeypatch
):
    path = write_jpeg_slide(tmp_path / "a.tiff")
    monkeypatch.setattr(native_tiles, "_PIECE_BYTES", 128 * 128 * 3)
    n_decoded = _count_decodings(monkeypatch)
    with open_slide(path) as slide:
        for y in range(0, 800, 100):
            for x in range(0, 1100, 100):
                slide.read((x, y), 100, 0.5)
        # Nine columns and seven rows; a row of output touches two of them.
        assert n_decoded() == 9 * 7
        assert slide._handle._tiles._n_bytes <= 3 * 9 * 128 * 128 * 3


def test_memory_of_tiles_of_one_size_is_given_back_for_those_of_another(
    tmp_path, write_jpeg_slide, monkeypatch
):
    path = write_jpeg_slide(tmp_path / "a.tiff")
    whole = 128 * 128 * 3
    monkeypatch.setattr(native_tiles, "_KEPT_BYTES", 8 * whole)
    monkeypatch.setattr(native_tiles, "_PIECE_BYTES", whole)
    with open_slide(path) as slide:
        slide.read((0, 0), (1200, 900), 0.5)  # fills it with tiles as they are
        for x in range(0, 1024, 128):
            slide.read((x, 256), 64, 1.0)
        tiles = slide._handle._tiles
        n_decoded = _count_decodings(monkeypatch)
        for x in range(0, 1024, 128):
            slide.read((x, 256), 64, 1.0)
        assert n_decoded() == 0
        held = list(tiles._kept.values())
        held += [tile for unused in tiles._unused.values() for tile in unused]
        assert tiles._n_bytes == sum(tile.nbytes for tile in held) <= 8 * whole


def test_means_of_very_large_squares_take_no_memory_to_speak_of(tmp_path, write_jpeg_slide):
    with open_slide(write_jpeg_slide(tmp_path / "a.tiff")) as slide:
        slide.read((0, 0), 8, 0.5)  # the level is proven
        before = slide._handle._tiles._n_bytes
        slide.read((0, 0), 7, 64.0)
        assert slide._handle._tiles._n_bytes - before <= 1024 * 3


def test_pixels_are_the_same_when_few_tiles_are_kept(tmp_path, write_jpeg_slide, monkeypatch):
    path = write_jpeg_slide(tmp_path / "a.tiff")
    monkeypatch.setattr(native_tiles, "_KEPT_BYTES", 3 * 128 * 128 * 3)
    monkeypatch.setattr(native_tiles, "_PIECE_BYTES", 128 * 128 * 3)
    n_decoded = _count_decodings(monkeypatch)
    with open_slide(path) as slide:
        for _ in range(2):
            made = slide.read((0, 0), (1200, 900), 0.5)
            np.testing.assert_array_equal(made, by_pillow(path, (0, 0), (1200, 900)))
        assert len(slide._handle._tiles._kept) == 3
    assert n_decoded() >= 2 * 80 - 3


def test_a_level_of_which_one_pixel_differs_is_left_to_openslide(
    tmp_path, write_jpeg_slide, monkeypatch
):
    path = write_jpeg_slide(tmp_path / "a.tiff")
    honest = JpegLevel.decode

    def wrong(self, stream, out):
        honest(self, stream, out)
        out[77, 31, 1] ^= 1

    monkeypatch.setattr(JpegLevel, "decode", wrong)
    with open_slide(path) as slide:
        made = slide.read((0, 0), (400, 300), 0.5)
        assert slide._handle._tiles.levels == {}
    np.testing.assert_array_equal(made, by_pillow(path, (0, 0), (400, 300)))


def test_an_aperio_slide_with_missing_tiles_is_left_to_openslide(tmp_path, shared_data):
    # OpenSlide paints them, and what lies over them in coarser levels, from finer levels.
    path = tmp_path / "a.svs"
    path.write_bytes((shared_data / SVS).read_bytes())
    _point(path, tile=7, n_bytes=0)
    with open_slide(path) as slide:
        assert (slide.read((7 * 240, 0), 240, slide.mpp) == 255).all()
        assert slide._handle._tiles.levels == {}


def _count_decodings(monkeypatch):
    calls = []
    honest = JpegLevel.decode
    monkeypatch.setattr(
        JpegLevel, "decode", lambda self, *given: calls.append(1) or honest(self, *given)
    )
    return lambda: len(calls)


def _pixels_or_none(slide, corner):
    try:
        return slide.read(corner, 128, 0.5)
    except UnreadableSlide:
        return None


def _point(path, *, tile, n_bytes):
    """Say in the directory that a tile has so many bytes."""
    with tifffile.TiffFile(path, mode="r+") as tiff:
        tag = tiff.pages[0].tags["TileByteCounts"]
        counts = list(tag.value)
        counts[tile] = n_bytes
        tag.overwrite(counts)

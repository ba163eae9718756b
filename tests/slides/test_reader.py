"""Reading slides: the same tissue gives the same pixels, whatever file it is in."""

from __future__ import annotations

import multiprocessing
import pickle
import struct
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest
import tifffile
from PIL import Image

from storm_clinic.errors import MppError, UnreadableSlide
from storm_clinic.slides import plain_image, reader
from storm_clinic.slides.reader import open_slide
from storm_clinic.slides.transparency import blend

SVS = "slides/CMU-1-Small-Region.svs"


def test_a_real_slide_states_what_it_is(shared_data):
    with open_slide(shared_data / SVS) as slide:
        assert slide.vendor == "aperio"
        assert slide.size == (2220, 2967)
        assert slide.level_sizes == ((2220, 2967),)
        assert slide.level_downsamples == (1.0,)
        assert (slide.mpp, slide.mpp_source) == (0.499, "slide")
        assert slide.codec == "JPEG"
        assert slide.digest == "6335ea0e6cc54c2cba64bb265d3c713a50cd84484924e3a9c109558c13521d5c"


def test_a_real_slide_reads_as_another_decoder_decodes_it(shared_data):
    whole = tifffile.imread(shared_data / SVS, key=0)
    with open_slide(shared_data / SVS) as slide:
        made = slide.read((700, 1500), (300, 200), slide.mpp)
    np.testing.assert_array_equal(made, whole[1500:1700, 700:1000])


@pytest.mark.parametrize("downsamples", [(1,), (1, 2), (1, 4), (1, 2, 4)])
def test_a_tile_is_the_same_from_a_20x_and_a_40x_scan(
    tmp_path, write_slide, shrink, texture, downsamples
):
    scan_40x = write_slide(tmp_path / "40x.tiff", texture, mpp=0.25, downsamples=downsamples)
    scan_20x = write_slide(tmp_path / "20x.tiff", shrink(texture, 2), mpp=0.5)
    with open_slide(scan_40x) as fine, open_slide(scan_20x) as coarse:
        for x, y in [(0, 0), (224, 100), (376, 226)]:
            from_40x = fine.read((2 * x, 2 * y), 224, 0.5).astype(int)
            from_20x = coarse.read((x, y), 224, 0.5).astype(int)
            assert np.abs(from_40x - from_20x).max() <= 1


def test_levels_of_odd_size_are_at_most_a_quarter_pixel_off(tmp_path, write_slide, shrink, texture):
    # OpenSlide takes such a level for 2.002 times smaller, and interpolates between its pixels.
    odd = texture[:899, :1199]
    path = write_slide(tmp_path / "a.tiff", odd, mpp=0.25, downsamples=(1, 2))
    half = shrink(odd, 2)
    with open_slide(path) as slide:
        made = slide.read((448, 200), 224, 0.5).astype(float)
    exact = half[100:324, 224:448].astype(float)
    slope = np.abs(np.diff(half.astype(float), axis=1)).mean()
    assert np.abs(made - exact).mean() < slope / 2


@pytest.mark.parametrize(
    ("mpp", "downsamples", "tolerance"),
    [
        (0.5, (1,), 1),
        (1.0, (1,), 1),
        (1.3, (1,), 1),
        (2.0, (1,), 1),
        (0.5, (1, 2), 1),
        (1.0, (1, 2), 1),
        (2.0, (1, 2, 4), 1),
        # From pixels 1.3 times finer: a mean of means is a little smoother.
        (1.3, (1, 2, 4), 8),
    ],
)
def test_any_level_gives_the_area_mean(tmp_path, write_slide, texture, mpp, downsamples, tolerance):
    slide_path = write_slide(tmp_path / "a.tiff", texture, mpp=0.25, downsamples=downsamples)
    x, y, n_out, step = 104, 56, 60, mpp / 0.25
    # Each level-0 pixel as ten points; each output pixel is the mean of its points.
    points = np.arange(round(n_out * step * 10))
    member = ((points + 0.5) / 10 / step).astype(int)[None, :] == np.arange(n_out)[:, None]
    share = member / member.sum(axis=1, keepdims=True)
    under = texture[np.ix_(y + points // 10, x + points // 10)].astype(float)
    wanted = np.einsum("ay,yxc,bx->abc", share, under, share, optimize=True)
    with open_slide(slide_path) as slide:
        made = slide.read((x, y), n_out, mpp)
    assert np.abs(made - wanted).mean() <= tolerance


def test_a_corner_between_a_levels_pixels_is_moved_by_half_a_pixel_at_most(
    tmp_path, write_slide, shrink, texture
):
    path = write_slide(tmp_path / "a.tiff", texture, mpp=0.25, downsamples=(1, 2))
    half = shrink(texture, 2)
    with open_slide(path) as slide:
        made = slide.read((101, 57), 60, 0.5)
    np.testing.assert_array_equal(made, half[29:89, 51:111])


def test_the_next_finer_level_is_read(tmp_path, write_slide, texture, monkeypatch):
    path = write_slide(tmp_path / "a.tiff", texture, mpp=0.25, downsamples=(1, 2, 4))
    levels = []
    with open_slide(path) as slide:
        honest = slide._handle.read

        def note(level, corner, out, side):
            levels.append(level)
            honest(level, corner, out, side)

        monkeypatch.setattr(slide._handle, "read", note)
        for mpp in (0.2, 0.25, 0.49, 0.4975, 0.5, 0.75, 0.98, 1.0, 7.0):
            slide.read((0, 0), 20, mpp)
    # 0.5 µm pixels serve for 0.4975, half a percent finer, but not for 0.49.
    assert levels == [0, 0, 0, 1, 1, 1, 1, 2, 2]


def test_a_scan_much_too_coarse_is_refused(tmp_path, write_slide, texture):
    path = write_slide(tmp_path / "a.tiff", texture, mpp=0.5)
    with open_slide(path) as slide:
        assert slide.read((0, 0), 10, 0.34).shape == (10, 10, 3)
        with pytest.raises(MppError, match=r"finest pixels are 0.5 µm, too coarse .* 0.25"):
            slide.read((0, 0), 10, 0.25)


@pytest.mark.parametrize("mpp", [0.25, 0.5, 1.0])
def test_outside_the_slide_is_background(tmp_path, write_slide, texture, mpp):
    path = write_slide(tmp_path / "a.tiff", texture, mpp=0.25, downsamples=(1, 2))
    step = round(mpp / 0.25)
    with open_slide(path) as slide:
        made = slide.read((-40, -80), 40, mpp)
        beyond = slide.read((5000, 0), 8, mpp)
    assert (made[: 80 // step] == 255).all()
    assert (made[:, : 40 // step] == 255).all()
    block = texture[:step, :step].reshape(-1, 3).mean(axis=0)
    if 80 // step < 40:
        np.testing.assert_allclose(made[80 // step, 40 // step], block, atol=1)
    assert (beyond == 255).all()


def test_the_last_pixels_are_tissue_where_a_level_is_rounded_down(tmp_path, write_slide):
    grey = np.full((301, 301, 3), 90, dtype=np.uint8)
    path = write_slide(tmp_path / "a.tiff", grey, mpp=0.25, downsamples=(1, 2))
    with open_slide(path) as slide:
        assert slide.level_sizes[1] == (150, 150)
        assert slide.level_downsamples == (1.0, 2.0)
        made = slide.read((281, 281), 10, 0.5)
    # Level 1 ends at 300 of 301 px; the tile reaches to 301.
    assert np.abs(made.astype(int) - 90).max() <= 1


def test_large_reads_are_the_same_in_strips(tmp_path, write_slide, texture, monkeypatch):
    path = write_slide(tmp_path / "a.tiff", texture, mpp=0.25)
    with open_slide(path) as slide:
        for mpp in (0.2, 0.25, 0.5, 0.6):
            whole = slide.read((5, 3), (300, 320), mpp).astype(int)
            monkeypatch.setattr(reader, "_STRIP_PX", 20_000)
            in_strips = slide.read((5, 3), (300, 320), mpp).astype(int)
            monkeypatch.undo()
            # Strips of a fractional step start between pixels, which rounds once more.
            assert np.abs(whole - in_strips).max() <= (0 if mpp in (0.25, 0.5) else 3)


def test_a_thumbnail_pixel_is_a_whole_number_of_slide_pixels(tmp_path, write_slide, texture):
    path = write_slide(tmp_path / "a.tiff", texture, mpp=0.26, downsamples=(1, 4))
    with open_slide(path) as slide:
        thumbnail, mpp = slide.thumbnail(8.0)
    assert mpp == pytest.approx(31 * 0.26)
    assert thumbnail.shape == (30, 39, 3)  # 900 / 31 and 1200 / 31, rounded up
    wanted = texture[:899, :1178].reshape(29, 31, 38, 31, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(thumbnail[:29, :38], wanted, atol=2.5)


def test_pixels_that_were_never_scanned_are_background(tmp_path):
    tile = np.full((128, 128, 3), 60, dtype=np.uint8)
    path = tmp_path / "sparse.tiff"
    tifffile.imwrite(
        path,
        iter([tile, None, None, tile]),
        shape=(256, 256, 3),
        dtype=np.uint8,
        tile=(128, 128),
        compression="zlib",
        photometric="rgb",
        resolution=(20_000, 20_000),
        resolutionunit="CENTIMETER",
        metadata=None,
    )
    with open_slide(path) as slide:
        assert slide.vendor == "generic-tiff"
        made = slide.read((0, 0), 256, 0.5)
    assert (made[:128, :128] == 60).all()
    assert (made[:128, 128:] == 255).all()


def test_half_transparent_pixels_mix_with_the_background_colour():
    rgba = np.array([[[10, 20, 30, 255], [10, 20, 30, 0], [100, 0, 200, 51]]], dtype=np.uint8)
    mixed = blend(rgba, (200, 100, 50))
    assert mixed.tolist() == [[[10, 20, 30], [200, 100, 50], [180, 80, 80]]]


@pytest.mark.parametrize(
    ("unit", "per_unit"), [("CENTIMETER", 20_000), ("INCH", 50_800)], ids=["cm", "inch"]
)
def test_a_tiled_tiff_states_its_mpp_by_its_resolution_tag(tmp_path, texture, unit, per_unit):
    path = tmp_path / "a.tiff"
    tifffile.imwrite(
        path,
        texture,
        tile=(128, 128),
        photometric="rgb",
        resolution=(per_unit, per_unit),
        resolutionunit=unit,
        metadata=None,
    )
    with open_slide(path) as slide:
        assert slide.vendor == "generic-tiff"
        assert slide.mpp == pytest.approx(0.5)
        assert slide.mpp_source == "slide"


def test_an_aperio_description_states_mpp_and_magnification_does_not(
    tmp_path, write_slide, texture
):
    header = "Aperio Image Library v10\r\n1200x900 [0,0 1200x900] (128x128) JPEG/RGB Q=70"
    stated = write_slide(
        tmp_path / "a.svs", texture, description=f"{header}|AppMag = 40|MPP = 0.2525"
    )
    silent = write_slide(tmp_path / "b.svs", texture, description=f"{header}|AppMag = 40")
    with open_slide(stated) as slide:
        assert (slide.vendor, slide.mpp, slide.mpp_source) == ("aperio", 0.2525, "slide")
    with pytest.raises(MppError, match=r"b\.svs: nothing states its microns per pixel"):
        open_slide(silent)
    with open_slide(silent, mpp_manifest=0.25) as slide:
        assert (slide.mpp, slide.mpp_source) == (0.25, "manifest")


def test_ome_xml_outweighs_the_print_resolution_beside_it(tmp_path, texture):
    path = tmp_path / "a.ome.tiff"
    tifffile.imwrite(
        path,
        texture,
        tile=(128, 128),
        photometric="rgb",
        resolution=(72, 72),
        resolutionunit="INCH",
        metadata={"axes": "YXS", "PhysicalSizeX": 0.25, "PhysicalSizeY": 0.25},
    )
    with open_slide(path) as slide:
        assert (slide.mpp, slide.mpp_source) == (0.25, "slide")


def test_a_slide_without_mpp_can_still_be_looked_at(tmp_path, write_slide, texture):
    path = write_slide(tmp_path / "a.tiff", texture)
    with open_slide(path, require_mpp=False) as slide:
        assert slide.size == (1200, 900)
        with pytest.raises(MppError, match="nothing states"):
            _ = slide.mpp
        with pytest.raises(MppError, match="nothing states"):
            slide.read((0, 0), 10, 0.5)


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.jpg"])
def test_a_plain_image_is_a_slide_of_one_level(tmp_path, texture, name):
    path = tmp_path / name
    Image.fromarray(texture).save(path, quality=100)
    decoded = np.asarray(Image.open(path).convert("RGB"))
    with pytest.raises(MppError, match="nothing states"):
        open_slide(path)
    with open_slide(path, mpp_manifest=0.688) as slide:
        assert slide.vendor == {"png": "png", "tif": "tiff", "jpg": "jpeg"}[path.suffix[1:]]
        assert slide.size == (1200, 900)
        assert slide.level_downsamples == (1.0,)
        assert slide.digest.startswith("sha256:")
        made = slide.read((10, 20), (50, 40), 0.688)
        np.testing.assert_array_equal(made, decoded[20:60, 10:60])
        assert slide.read((0, 0), 224, 0.5).shape == (224, 224, 3)


def test_what_is_read_can_be_changed_without_changing_the_image(tmp_path, texture):
    Image.fromarray(texture).save(tmp_path / "a.png")
    with open_slide(tmp_path / "a.png", mpp_manifest=0.5) as slide:
        slide.read((0, 0), (1200, 900), 0.5)[:] = 0
        np.testing.assert_array_equal(slide.read((0, 0), (1200, 900), 0.5), texture)


def test_a_flat_tiffs_resolution_counts_only_where_a_microscope_could_have_it(tmp_path, texture):
    measured, printed = tmp_path / "measured.tif", tmp_path / "printed.tif"
    tifffile.imwrite(
        measured, texture, photometric="rgb", resolution=(20_000, 20_000), resolutionunit=3
    )
    tifffile.imwrite(printed, texture, photometric="rgb", resolution=(300, 300), resolutionunit=2)
    with open_slide(measured) as slide:
        assert slide.vendor == "tiff"
        assert (slide.mpp, slide.mpp_source) == (pytest.approx(0.5), "slide")
    with open_slide(printed, mpp_manifest=0.5) as slide:
        assert slide.mpp_source == "manifest"
    with pytest.raises(MppError, match=r"the manifest states 0.25"):
        open_slide(measured, mpp_manifest=0.25)


def test_transparent_parts_of_a_png_are_white(tmp_path):
    rgba = np.zeros((40, 40, 4), dtype=np.uint8)
    rgba[:, 20:] = (120, 60, 140, 255)
    Image.fromarray(rgba).save(tmp_path / "a.png")
    with open_slide(tmp_path / "a.png", mpp_manifest=0.5) as slide:
        made = slide.read((0, 0), 40, 0.5)
    assert (made[:, :20] == 255).all()
    assert (made[:, 20:] == (120, 60, 140)).all()


def test_images_beyond_pillows_limit_are_read_up_to_ours(tmp_path, texture, monkeypatch):
    Image.fromarray(texture).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with open_slide(tmp_path / "a.png", mpp_manifest=0.5) as slide:
        assert slide.read((0, 0), 8, 0.5).shape == (8, 8, 3)
    monkeypatch.setattr(plain_image, "MAX_IMAGE_PX", 1200 * 900 - 1)
    with pytest.raises(UnreadableSlide, match=r"1200 x 900 px are more than .* pyramidal TIFF"):
        open_slide(tmp_path / "a.png", mpp_manifest=0.5)


@pytest.mark.parametrize("mode", ["L", "I;16", "1"])
def test_images_that_are_not_8_bit_colour_are_refused(tmp_path, mode):
    Image.new(mode, (30, 30)).save(tmp_path / "a.png")
    with pytest.raises(UnreadableSlide, match=r"not 8-bit colour.*8-bit RGB"):
        open_slide(tmp_path / "a.png", mpp_manifest=0.5)


def test_16_bit_colour_is_refused_not_truncated(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((30, 30, 3), np.uint16), photometric="rgb")
    with pytest.raises(UnreadableSlide, match=r"8-bit|decoded"):
        open_slide(tmp_path / "a.tif", mpp_manifest=0.5)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("note.svs", b"dear colleague,\n" * 99, "holds text, not a slide"),
        ("noise.svs", bytes(range(256)) * 9, "no slide that OpenSlide knows"),
        ("note.png", b"dear colleague,\n" * 99, "neither PNG nor JPEG nor TIFF"),
        ("empty.svs", b"", "the file is empty"),
        ("header.png", b"\x89PNG\r\n\x1a\n" + b"\0" * 20, "cannot be decoded"),
        ("header.tif", struct.pack("<2sHI", b"II", 42, 8), "cannot be decoded"),
        ("short.tif", b"II*\0", "cannot be decoded"),
    ],
)
def test_what_is_no_slide_is_named_as_such(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UnreadableSlide, match=message) as caught:
        open_slide(tmp_path / name, mpp_override=0.5)
    assert name in str(caught.value)


def test_a_missing_slide_and_a_folder_are_named(tmp_path):
    with pytest.raises(UnreadableSlide, match=r"gone\.svs: there is no such file"):
        open_slide(tmp_path / "gone.svs")
    with pytest.raises(UnreadableSlide, match="cannot be read: Is a directory"):
        open_slide(tmp_path)


@pytest.mark.parametrize("share", [0.02, 0.3, 0.9])
def test_a_truncated_real_slide_is_refused(shared_data, tmp_path, share):
    whole = (shared_data / SVS).read_bytes()
    path = tmp_path / "cut.svs"
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(UnreadableSlide, match=r"cut\.svs"), open_slide(path) as slide:
        slide.thumbnail()


def test_a_property_whose_name_is_damaged_does_not_stop_the_slide(shared_data, tmp_path):
    path = tmp_path / "a.svs"
    whole = (shared_data / SVS).read_bytes()
    path.write_bytes(whole.replace(b"|Filtered = 5", b"|Filter\xe5d = 5"))
    with open_slide(path) as slide:
        assert slide.mpp == 0.499


def test_after_a_damaged_region_the_others_still_read(tmp_path, write_slide, texture):
    path = write_slide(tmp_path / "a.tiff", texture, mpp=0.5, compression="jpeg")
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[0]
        offset, n_bytes = page.dataoffsets[0], page.databytecounts[0]
    with path.open("r+b") as handle:
        handle.seek(offset)
        handle.write(b"\0" * n_bytes)
    with open_slide(path) as slide:
        with pytest.raises(UnreadableSlide, match=r"100 x 100 px at \(0, 0\) of level 0"):
            slide.read((0, 0), 100, 0.5)
        undamaged = slide.read((300, 300), 100, 0.5)
    assert np.abs(undamaged.astype(int) - texture[300:400, 300:400]).mean() < 10


def test_a_truncated_image_is_refused_when_read(tmp_path, texture):
    Image.fromarray(texture).save(tmp_path / "a.jpg")
    whole = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(whole[: len(whole) // 2])
    with (
        open_slide(tmp_path / "a.jpg", mpp_manifest=0.5) as slide,
        pytest.raises(UnreadableSlide, match=r"a\.jpg: it cannot be decoded .*truncated"),
    ):
        slide.read((0, 0), 10, 0.5)


def _sum_of_tile(slide, corner):
    return int(slide.read(corner, 64, slide.mpp).astype(np.int64).sum())


_FORKED = {}


def _sum_in_fork(corner):
    return _sum_of_tile(_FORKED["slide"], corner)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_processes_read_what_one_process_reads(tmp_path, write_slide, texture, method):
    path = write_slide(tmp_path / "a.tiff", texture, mpp=0.5, compression="jpeg")
    corners = [(x, y) for y in range(0, 800, 64) for x in range(0, 1100, 64)]
    with open_slide(path) as slide:
        alone = [_sum_of_tile(slide, corner) for corner in corners]
        if method == "spawn":
            # What spawn does: the slide travels as bytes, without its handle.
            again = pickle.loads(pickle.dumps(slide))  # noqa: S301 - our own bytes
            assert [_sum_of_tile(again, corner) for corner in corners] == alone
            again.close()
            return
        _FORKED["slide"] = slide
        context = multiprocessing.get_context(method)
        with ProcessPoolExecutor(2, mp_context=context) as pool:
            assert list(pool.map(_sum_in_fork, corners)) == alone

"""Who is believed about microns per pixel."""

from __future__ import annotations

import pytest

from storm_clinic.errors import MppError
from storm_clinic.slides.mpp import ome_mpp, settle_mpp


@pytest.mark.parametrize(
    ("override", "manifest", "slide", "mpp", "source"),
    [
        (0.25, None, None, 0.25, "override"),
        (None, 0.25, None, 0.25, "manifest"),
        (None, None, (0.25, 0.25), 0.25, "slide"),
        (0.25, 0.5, (1.0, 1.0), 0.25, "override"),  # the override settles a contradiction
        (None, 0.25, (0.262, 0.262), 0.25, "manifest"),  # 4.8% apart
        (0.25, None, (0.25, 0.5), 0.25, "override"),
        (0.25, None, ("0", "0"), 0.25, "override"),
        (None, None, ("0.2498", "0.2502"), 0.25, "slide"),
        (None, None, (0.05, 0.05), 0.05, "slide"),
        (None, None, (20, 20), 20, "slide"),
    ],
)
def test_the_first_of_override_manifest_and_slide_holds(override, manifest, slide, mpp, source):
    settled = settle_mpp(override=override, manifest=manifest, slide=slide, where="a.svs")
    assert settled.mpp == pytest.approx(mpp, abs=1e-6)
    assert settled.source == source


@pytest.mark.parametrize(
    ("override", "manifest", "slide", "message"),
    [
        (None, None, None, "nothing states its microns per pixel"),
        (None, 0.25, (0.2631, 0.2631), r"manifest states 0.25 .* itself 0.2631"),  # 5.2% apart
        (None, 0.5, (0.25, 0.25), "--mpp"),
        (None, 0.25, (0.25, 0.5), "not square: 0.25 µm across, 0.5 µm down"),
        (None, None, (0.25, 0.26), "not square"),
        (None, None, ("", ""), "the slide states"),
        (None, None, ("0,25", "0,25"), "the slide states 0,25"),
        (None, None, (0.049, 0.049), "0.05 to 20"),
        (None, None, (352.8, 352.8), "the slide states 352.8"),
        (None, 0.5, (352.8, 352.8), "the slide states 352.8"),
        (None, None, (25400 / 72, 25400 / 72), "the slide states 352.778 µm"),  # 72 dpi
        (None, 20.1, None, "the manifest states 20.1"),
        (0.0, None, None, "the override states 0"),
        (-0.25, None, None, "the override states -0.25"),
        (float("nan"), None, None, "the override states nan"),
        (float("inf"), None, None, "the override states inf"),
    ],
)
def test_doubt_is_an_error_that_names_the_slide_and_the_values(override, manifest, slide, message):
    with pytest.raises(MppError, match=message) as caught:
        settle_mpp(override=override, manifest=manifest, slide=slide, where="a.svs")
    assert str(caught.value).startswith("a.svs: ")


@pytest.mark.parametrize(
    ("attributes", "sizes"),
    [
        ('PhysicalSizeX="0.25" PhysicalSizeY="0.26"', (0.25, 0.26)),
        ('PhysicalSizeX="250" PhysicalSizeXUnit="nm" PhysicalSizeY="0.25"', (0.25, 0.25)),
        ('PhysicalSizeY="0.5" PhysicalSizeYUnit="µm" PhysicalSizeX="0.5"', (0.5, 0.5)),
        ('PhysicalSizeX="1" PhysicalSizeXUnit="pixel" PhysicalSizeY="1"', None),
        ('PhysicalSizeX="0.5"', None),
        ('PhysicalSizeX="wide" PhysicalSizeY="0.5"', None),
    ],
)
def test_ome_xml_states_pixel_size_with_its_unit(attributes, sizes):
    document = f'<OME><Image><Pixels {attributes} SizeX="3"/></Image></OME>'
    assert ome_mpp(document) == (None if sizes is None else pytest.approx(sizes))


def test_other_descriptions_state_nothing():
    assert ome_mpp('ImageJ=1.53\nPhysicalSizeX="0.5" PhysicalSizeY="0.5"') is None
    assert ome_mpp(None) is None

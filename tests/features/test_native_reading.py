"""Who decodes a slide's tiles does not show in its feature file."""

from __future__ import annotations

from storm_clinic.encoders.hub import load_encoder
from storm_clinic.features.extraction import extract_slides
from storm_clinic.features.store import FeatureContract, FeatureStore
from storm_clinic.features.tile_reading import TileReading
from storm_clinic.features.tiling import SlideJob
from storm_clinic.slides.tiles import TileGeometry
from storm_clinic.slides.tissue import TissueParameters
from storm_clinic.slides.whole_slide import READ_WITH

SVS = "slides/CMU-1-Small-Region.svs"


def test_a_real_slides_features_are_byte_for_byte_those_read_by_openslide(
    shared_data, tiny_encoder, tmp_path, monkeypatch
):
    card, weights = tiny_encoder
    encoder = load_encoder(card, weights=weights, device="cpu")
    tissue = TissueParameters(min_area_um2=1000)
    files = []
    for reader in ("", "openslide"):
        monkeypatch.setenv(READ_WITH, reader)
        contract = FeatureContract(
            encoder="tiny",
            encoder_digest=encoder.digest,
            width=12,
            mpp=0.9,
            tile_px=64,
            pooling="pooled",
            tissue=tissue.as_dict(),
        )
        store = FeatureStore.create(tmp_path / f"by_{reader}", contract)
        (result,) = extract_slides(
            [SlideJob("a", shared_data / SVS)],
            encoder,
            store,
            TileReading(TileGeometry(tile_px=64, mpp=0.9), tissue, n_readers=1, batch_size=32),
        )
        assert (result.status, result.n_failed_tiles) == ("written", 0)
        files.append(store.path("a").read_bytes())
    assert files[0] == files[1]

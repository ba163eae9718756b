"""Damage files of every kind by seed, read them, and see that no number changes in silence.

    python benchmarks/mutations.py [seed of the first mutation]

Each file is cut short, has one bit flipped, 64 bytes scrambled or up to 512 blanked, by turns. Each
kind of file is read in a process of its own, so that a crash or a reader that never ends is seen,
named and counted. For files of this program an outcome is legal if it is an error of
`storm_clinic.errors` or exactly what the whole file gives.

Slides come from scanners and carry no checksum. There two more outcomes are legal: the digest that
is stored with every feature file (OpenSlide's quickhash-1) differs, or pixels alone do; size,
levels and microns per pixel may not under the same digest. How often pixels differ is printed: no
decoder can tell, and who must exclude it compares the scanner's or archive's checksum of the file.

Feature files of other programs carry no checksum either, so there values may differ as pixels may.
They are imported as `storm-clinic features import` does, in a process that may hang or die over
them; that it did, and the file was refused for it, is counted.

Exits with 1 on any other outcome.
"""

from __future__ import annotations

import multiprocessing
import re
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tifffile

import storm_clinic
from storm_clinic.bundle import (
    Manifest,
    OutcomeDefinition,
    TrainingCohort,
    read_bundle,
    write_bundle,
)
from storm_clinic.errors import FeatureError, StormClinicError
from storm_clinic.features.contract import FeatureContract
from storm_clinic.features.declaration import Declaration
from storm_clinic.features.file_writer import new_hdf5, set_attributes, write_array
from storm_clinic.features.foreign_writer import Layout, write_foreign
from storm_clinic.features.interop import import_slides
from storm_clinic.features.lost_tasks import TimeLimits
from storm_clinic.features.slide_features import digest_array
from storm_clinic.features.store import FeatureStore, SlideFeatures
from storm_clinic.features.storm_store import StormStore
from storm_clinic.features.storm_tiles import VirtualExpression
from storm_clinic.heads.bag_cache import build_bags
from storm_clinic.heads.estimator_archive import pack, unpack
from storm_clinic.predictions import Predictions
from storm_clinic.slides.reader import open_slide
from storm_clinic.study import Study

EACH = 80  # mutations a kind of file
PATIENCE_S = 60  # after which a reader hangs
LOST = re.compile("a reader process (hung|died) on it")
IMPORT_S = 10.0  # after which a file of another program is taken to hang its reader
LEGAL = ("error", "hung", "died", "same", "other digest", "pixels")
SLIDE_SIDE = 512
SHIPPED = Path(storm_clinic.__file__).parent / "storm" / "checkpoints" / "storm-tiny-her2st"


@dataclass(frozen=True)
class Seen:
    """What reading a file gave.

    Identity (its digest) is of slides alone; pixels, of which nobody can tell that they are others,
    are of slides, and the values of other programs' feature files.
    """

    facts: Any
    pixels: Any = None
    identity: str | None = None


@dataclass(frozen=True)
class Kind:
    """A kind of file: its name, how one is written, and how it is read."""

    name: str
    write: Callable[[Path], Path]
    read: Callable[[Path], Seen]


def damaged(data: bytes, seed: int) -> bytes:
    """Truncate, flip one bit, scramble 64 bytes, or blank 512, by turns."""
    rng = np.random.default_rng(seed)
    at = int(rng.integers(len(data)))
    if seed % 4 == 0:
        return data[:at]
    if seed % 4 == 1:
        return data[:at] + bytes([data[at] ^ (1 << int(rng.integers(8)))]) + data[at + 1 :]
    length = min(64 if seed % 4 == 2 else 512, len(data) - at)
    filling = rng.bytes(length) if seed % 4 == 2 else bytes(length)
    return data[:at] + filling + data[at + length :]


def campaign(kind: Kind, seeds: range) -> Counter[str]:
    """Outcomes of reading one file of a kind after each mutation; prints those that are illegal."""
    found: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as scratch:
        path = kind.write(Path(scratch))
        whole = path.read_bytes()
        left = list(seeds)
        while left:
            left = _outcomes(kind, path, whole, left, found)
    return found


def _outcomes(
    kind: Kind, path: Path, whole: bytes, seeds: list[int], found: Counter[str]
) -> list[int]:
    """Read in a child until it is done, dies or hangs; the seeds that are left."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=_read_all, args=(kind, path, whole, seeds, theirs))
    child.start()
    theirs.close()
    for done, seed in enumerate(seeds):
        outcome, detail = "hangs", f"{PATIENCE_S} s"
        try:
            if ours.poll(PATIENCE_S):
                outcome, detail = ours.recv()
        except EOFError:
            child.join()
            outcome, detail = "crashes", f"exit status {child.exitcode}"
        found[outcome] += 1
        if outcome not in LEGAL:
            print(f"{kind.name}, seed {seed}: {outcome}: {detail}", file=sys.stderr)
        if outcome in ("hangs", "crashes"):
            child.kill()
            child.join()
            return seeds[done + 1 :]
    child.join()
    return []


def _read_all(kind: Kind, path: Path, whole: bytes, seeds: list[int], out: Any) -> None:
    path.write_bytes(whole)
    before = kind.read(path)
    for seed in seeds:
        path.write_bytes(damaged(whole, seed))
        out.send(_outcome(kind, path, before))


def _outcome(kind: Kind, path: Path, before: Seen) -> tuple[str, str]:
    try:
        after = kind.read(path)
    except StormClinicError as error:
        lost = LOST.search(str(error))
        return lost[1] if lost else "error", str(error)
    except Exception as error:  # noqa: BLE001 - any other is what is looked for
        return "not ours", repr(error)
    if before.identity != after.identity:
        return "other digest", ""
    if not same(before.facts, after.facts):
        return "silent", f"{after.facts} instead of {before.facts}"
    return ("same" if same(before.pixels, after.pixels) else "pixels"), ""


def same(one: Any, other: Any) -> bool:
    """Whether two results agree to the last bit, NaN included."""
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, np.ndarray):
        if not isinstance(other, np.ndarray):
            return False
        return one.dtype == other.dtype and one.tobytes() == other.tobytes()
    if isinstance(one, pd.DataFrame):
        return bool(one.equals(other))
    if isinstance(one, SlideFeatures):
        return same(list(vars(one).values()), list(vars(other).values()))
    return bool(one == other)


def _slide(compression: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        rng = np.random.default_rng(1)
        coarse = rng.integers(0, 255, (SLIDE_SIDE // 8, SLIDE_SIDE // 8, 3))
        pixels = coarse.repeat(8, axis=0).repeat(8, axis=1).astype(np.uint8)
        path = folder / "slide.tif"
        with tifffile.TiffWriter(path) as writer:
            for factor in (1, 4):
                writer.write(
                    pixels[::factor, ::factor],
                    tile=(128, 128),
                    compression=compression,
                    photometric="rgb",
                    resolution=(20_000, 20_000),
                    resolutionunit="CENTIMETER",
                    metadata=None,
                    subfiletype=int(factor > 1),
                )
        return path

    return write


def _read_slide(path: Path) -> Seen:
    with open_slide(path) as slide:
        facts = (slide.size, slide.level_sizes, slide.level_downsamples, slide.mpp)
        identity = slide.digest
        regions = [
            slide.read((x, y), 128, 0.5)
            for x in range(0, SLIDE_SIDE, 128)
            for y in range(0, SLIDE_SIDE, 128)
        ]
    return Seen(facts, regions, identity)


CONTRACT = FeatureContract(
    encoder="toy", encoder_digest="ab" * 32, width=8, mpp=0.5, tile_px=224, licence="MIT"
)


def _slide_features() -> SlideFeatures:
    rng = np.random.default_rng(2)
    return SlideFeatures(
        "S1",
        rng.normal(size=(60, 8)).astype(np.float16),
        rng.integers(0, 9000, (60, 2)),
        rng.random(60).astype(np.float16),
        rng.integers(0, 9000, (2, 2)),
        slide_digest="cd" * 32,
        slide_mpp=0.25,
        slide_mpp_source="slide",
        vendor="aperio",
    )


def _write_features(folder: Path) -> Path:
    return FeatureStore.create(folder / "toy", CONTRACT).write(_slide_features())


def _foreign_file(layout: Layout, suffix: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        path = folder / "given" / f"S1.{suffix}"
        if suffix == "pt":  # CLAM has tensors in a folder beside that of its HDF5
            write_foreign(path.with_suffix(".h5"), layout, _slide_features(), CONTRACT)
            return folder / "pt_files" / path.name
        write_foreign(path, layout, _slide_features(), CONTRACT)
        return path

    return write


def _read_foreign(path: Path) -> Seen:
    with tempfile.TemporaryDirectory() as scratch:
        result = import_slides(
            [path],
            Path(scratch) / "toy",
            Declaration("toy", mpp=CONTRACT.mpp, tile_px=CONTRACT.tile_px),
            slide_mpps={"S1": 0.25},
            limits=TimeLimits(task_s=IMPORT_S),
        )
        (row,) = result.table.to_dict("records")
        if row["status"] != "imported":
            raise FeatureError(row["reason"])
        return Seen(None, result.store.read(row["slide_id"]))


def _write_storm(folder: Path) -> Path:
    rng = np.random.default_rng(3)
    path = folder / "checkpoint" / "S1.h5"
    path.parent.mkdir()
    facts = {
        **{"format": "storm_clinic/slide-storm", "format_version": 1, "slide_id": "S1"},
        **{"provenance": "extracted", "checkpoint_digest": "ef" * 32, "mpp": 0.5, "tile_px": 224},
    }
    genes = ["ACTB", "VHL", "MYC", "CD8A"]
    with new_hdf5(path) as file:
        set_attributes(file, facts)
        write_array(file, "spots", rng.normal(size=(60, 8)).astype("<f2"))
        write_array(file, "coords", rng.integers(0, 9000, (60, 2)).astype("<i8"))
        group = file.create_group("expression")
        write_array(group, "slide", rng.random(4).astype("<f4"))
        write_array(group, "genes", np.array([gene.encode() for gene in genes]))
        write_array(group, "heldout_r_lower", np.array([0.2, -0.1, 0.3, 0.1], "<f4"))
        values = rng.random((60, 4)).astype("<f2")
        made = group.create_dataset("values", data=values, chunks=(16, 4), track_times=False)
        set_attributes(made, {"sha256": digest_array(values)})
    return path


def _read_storm(path: Path) -> Seen:
    store = StormStore.open(path.parent)
    tiles = VirtualExpression.open(store).read("S1")
    maps = store.gene_maps("S1", ["CD8A", "VHL"])
    return Seen([store.index(), store.read("S1"), store.genes("S1"), tiles, maps])


def _write_index(folder: Path) -> Path:
    _write_features(folder)
    FeatureStore.open(folder / "toy").index()
    return folder / "toy" / "index.parquet"


def _predictions(name: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        rng = np.random.default_rng(4)
        keys = {"cohort": "a", "patient_key": [f"p{n}" for n in range(80)], "model": "m"}
        values = {"repeat": 0, "fold": rng.integers(0, 5, 80), "risk": rng.normal(size=80)}
        table = pd.DataFrame({**keys, **values, "risk_at_12m": rng.random(80)})
        Predictions(table).write(folder / name)
        return folder / name

    return write


def _write_bundle(folder: Path) -> Path:
    study = {
        **{"format": 1, "study": "s", "question": "Does it predict?", "endpoint": {"name": "pfs"}},
        **{"features": {"encoder": "toy"}, "development": ["a"], "candidate": "m"},
        "models": [{"name": "m", "head": "cox", "inputs": ["image"]}],
        "evaluation": {"seed": 7},
    }
    manifest = Manifest(
        study=Study.from_document(study).resolved(),
        features=CONTRACT.to_json(),
        clinical=(),
        outcome=OutcomeDefinition(name="pfs", kind="survival"),
        risk_thresholds={"m": (0.0,)},
        training={"a": TrainingCohort(n_patients=60, n_events=20, digests={})},
        seeds={},
        key_id=None,
        code={},
        packages={},
        run_id=None,
    )
    state = ({"beta": np.random.default_rng(5).normal(size=8)}, {"ridge": 0.1})
    write_bundle(folder / "bundle", {"m": state}, manifest)
    return folder / "bundle"


def _bundle_file(name: str) -> Callable[[Path], Path]:
    return lambda folder: _write_bundle(folder) / name


def _read_bundle(path: Path) -> Seen:
    found = read_bundle(path.parent)
    facts = [found.digest, found.manifest, found.study, found.settings]
    return Seen([*facts, found.arrays["m"]["beta"]])


def _write_trees(folder: Path) -> Path:
    from sklearn.ensemble import RandomForestClassifier

    places = np.random.default_rng(6).normal(size=(60, 4))
    forest = RandomForestClassifier(5, random_state=0).fit(places, places[:, 0] > 0)
    path = folder / "trees.zip"
    path.write_bytes(pack(forest).tobytes())
    return path


def _read_trees(path: Path) -> Seen:
    forest = unpack(np.frombuffer(path.read_bytes(), np.uint8), where=str(path))
    return Seen([forest.predict_proba(np.random.default_rng(6).normal(size=(60, 4)))])


def _checkpoint_file(name: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        shutil.copytree(SHIPPED, folder / "checkpoint", copy_function=shutil.copyfile)
        return folder / "checkpoint" / name

    return write


def _cohort_file(name: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        _write_features(folder)
        build_bags(FeatureStore.open(folder / "toy"), [["S1"]], folder / "cache")
        (path,) = (folder / "cache").glob(f"{name}-*.npy")
        return path

    return write


def _read_cohort(path: Path) -> Seen:
    store = FeatureStore.open(path.parent.parent / "toy")
    bags = build_bags(store, [["S1"]], path.parent)
    return Seen([bags.pooled_mean(), bags.bag(0), bags.gather_places(slice(0, 1))])


def _encoder_file(name: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        import torch

        from storm_clinic.encoders.catalogue import find_card
        from storm_clinic.encoders.encoder_folder import TrainedFrom, write_encoder

        card = replace(find_card("kaiko-vits16"), pooling="cls", width=8)
        start = TrainedFrom(encoder="kaiko-vits16", digest="ab" * 32)
        network = torch.nn.Linear(8, 8)  # its shape is of no account to what is read here
        seen = [{"image": "a1", "section": "b2", "patient": "c3"}]
        write_encoder(folder / "encoder", "own", card, start, network, trained_on=seen)
        return folder / "encoder" / name

    return write


def _read_encoder(path: Path) -> Seen:
    from storm_clinic.encoders.encoder_folder import read_encoder_card, read_trained_on
    from storm_clinic.encoders.weights import read_weights

    card = read_encoder_card(path.parent)
    assert card.convert is not None
    state = card.convert(read_weights(path.parent / "model.safetensors"))
    arrays = [state[name].numpy() for name in sorted(state)]
    return Seen([card.name, card.pooling, card.width, read_trained_on(path.parent), *arrays])


def _read_checkpoint(path: Path) -> Seen:
    from storm_clinic.storm.checkpoint import load_checkpoint

    found = load_checkpoint(path.parent)
    assert found.reliability is not None
    weights = [value.numpy() for value in found.model.state_dict().values()]
    facts = [found.digest, found.inputs, found.vocabulary, dict(found.card)]
    return Seen([*facts, found.reliability.r, found.reliability.lower, weights])


def _write_contract(folder: Path) -> Path:
    _write_features(folder)
    return folder / "toy" / "contract.json"


KINDS = (
    Kind("feature file", _write_features, lambda p: Seen(FeatureStore.open(p.parent).read("S1"))),
    Kind("STORM file", _write_storm, _read_storm),
    Kind("index of a store", _write_index, lambda p: Seen(FeatureStore.open(p.parent).index())),
    Kind(
        "predictions (parquet)",
        _predictions("p.parquet"),
        lambda p: Seen(Predictions.read(p).table),
    ),
    Kind("bundle: manifest", _bundle_file("manifest.json"), _read_bundle),
    Kind("bundle: arrays", _bundle_file("model.safetensors"), _read_bundle),
    Kind("trees of a model", _write_trees, _read_trees),
    Kind("STORM checkpoint: facts", _checkpoint_file("config.json"), _read_checkpoint),
    Kind("STORM checkpoint: weights", _checkpoint_file("model.safetensors"), _read_checkpoint),
    Kind("packed cohort: tiles", _cohort_file("bags"), _read_cohort),
    Kind("packed cohort: places", _cohort_file("places"), _read_cohort),
    Kind("packed cohort: means", _cohort_file("means"), _read_cohort),
    Kind("trained encoder: facts", _encoder_file("encoder.json"), _read_encoder),
    Kind("trained encoder: weights", _encoder_file("model.safetensors"), _read_encoder),
    Kind(
        "contract of a store",
        _write_contract,
        lambda p: Seen(FeatureStore.open(p.parent).read("S1")),
    ),
    Kind("TRIDENT's HDF5", _foreign_file("trident", "h5"), _read_foreign),
    Kind("CLAM's HDF5", _foreign_file("clam", "h5"), _read_foreign),
    Kind("CLAM's tensors", _foreign_file("clam", "pt"), _read_foreign),
    Kind("STAMP's HDF5", _foreign_file("stamp", "h5"), _read_foreign),
    Kind("AnnData", _foreign_file("anndata", "h5ad"), _read_foreign),
    Kind("slide, JPEG tiles", _slide("jpeg"), _read_slide),
    Kind("slide, deflate tiles", _slide("deflate"), _read_slide),
)


def main(first_seed: int) -> int:
    """Print a table of outcomes; 1 if any is illegal."""
    seeds = range(first_seed, first_seed + EACH)
    found = {kind.name: campaign(kind, seeds) for kind in KINDS}
    columns = [*LEGAL, *sorted({name for counts in found.values() for name in counts} - {*LEGAL})]
    n_all = sum(sum(counts.values()) for counts in found.values())
    print(f"## Damaged files: {n_all} mutations, seeds {seeds[0]} to {seeds[-1]}\n")
    print(f"| file | {' | '.join(columns)} |\n| --- |{' ---: |' * len(columns)}")
    for name, counts in found.items():
        print(f"| {name} | {' | '.join(str(counts[column]) for column in columns)} |")
    print(
        "\n`error`: refused with an error of ours. `hung`, `died`: likewise, because the process "
        f"that read it did not come back in {IMPORT_S:g} s, or crashed. `same`: exactly what the "
        "whole file gives. `other digest`: the slide's own digest is another. `pixels`: its pixels "
        "differ under the same digest, and no decoder can tell; of other programs' files, which "
        "carry no checksum: their values."
    )
    return int(any(counts[name] for counts in found.values() for name in columns[len(LEGAL) :]))


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 0))

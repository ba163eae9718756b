"""Which slides stand for a study's patients: files joined, losses counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pandas as pd

from storm_clinic.cohort.attrition import Attrition
from storm_clinic.cohort.table import Cohort
from storm_clinic.errors import CohortError
from storm_clinic.features.store import FeatureStore
from storm_clinic.features.storm_store import StormStore
from storm_clinic.features.storm_tiles import VirtualExpression
from storm_clinic.files import Workspace
from storm_clinic.heads.bag_cache import Store, build_bags
from storm_clinic.heads.bags import Bags
from storm_clinic.heads.contract import PatientData
from storm_clinic.steps.storm_origin import require_one_origin
from storm_clinic.study import FROM_STORM, IMPUTED, VIRTUAL, Study

_FILES = {"image": "features", "storm": "a STORM file"}
_FILE_OF = {"image": "image"} | dict.fromkeys(FROM_STORM, "storm")
Slides = tuple[tuple[str, ...], ...]


@dataclass(frozen=True, eq=False)
class PatientSlides:
    """Patients in the order of their ids, with the slides that stand for them.

    Attributes
    ----------
    patient_ids : tuple of str
    image_slides, storm_slides : tuple of tuple of str
        Slides of each patient that have features, and STORM files; sorted, possibly none.
    attrition : Attrition
    store : FeatureStore, optional
    storm : StormStore, optional
    virtual : VirtualExpression, optional
        What the STORM files impute of tiles, where a model sees it.
    """

    patient_ids: tuple[str, ...] = field(repr=False)
    image_slides: Slides = field(repr=False)
    storm_slides: Slides = field(repr=False)
    attrition: Attrition = field(repr=False)
    store: FeatureStore | None
    storm: StormStore | None
    virtual: VirtualExpression | None

    def data(self, study: Study) -> PatientData:
        """What the study's models see of these slides."""
        seen = study.inputs
        imputes = self.storm is not None and IMPUTED in seen
        return PatientData(
            keys=self.patient_ids,
            bags=_bags(self.store, self.image_slides),
            storm=_bags(self.storm, self.storm_slides) if "storm" in seen else None,
            virtual_expression=self._virtual(),
            tables={IMPUTED: self._imputed()} if imputes else {},
        )

    def _virtual(self) -> Bags | None:
        bags = _bags(self.virtual, self.storm_slides)
        if bags is None or self.virtual is None:
            return None
        return replace(bags, columns=self.virtual.genes)

    def _imputed(self) -> pd.DataFrame:
        assert self.storm is not None
        table = self.storm.mean_expression(self.storm_slides)
        return table.set_axis(list(self.patient_ids), axis=0)


def join_slides(
    study: Study, cohort: Cohort, patient_ids: Sequence[str], workspace: Workspace
) -> PatientSlides:
    """Find the files of some patients' slides; leave out whom the study requires to have some.

    Raises
    ------
    CohortError, FeatureError
        If there are no such files, or nobody has one.
    ContractMismatch
        If STORM files were not made of the slides and tiles whose features lie beside them.
    """
    stores: dict[str, Store] = {}
    if "image" in study.inputs:
        folder = workspace.store(cohort.name, study.features.encoder)
        stores["image"] = FeatureStore.open(folder)
    if FROM_STORM.intersection(study.inputs):
        assert study.features.storm is not None  # the study file is held to it
        made = StormStore.open(workspace.store(cohort.name, study.features.storm))
        tiles = stores.get("image")
        if isinstance(tiles, FeatureStore):
            require_one_origin(tiles, made.folder, made.headers)
        stores["storm"] = made
    needed = list(dict.fromkeys(_FILE_OF[n] for n in study.required if n in _FILE_OF))
    order = sorted(patient_ids)
    attrition = Attrition()
    of: dict[str, dict[str, tuple[str, ...]]] = {"image": {}, "storm": {}}
    if stores:
        usable = {name: _usable(store) for name, store in stores.items()}
        joined = cohort.join_slides(patient_ids, set().union(*usable.values()), needed=bool(needed))
        attrition, kept = joined.attrition, list(joined.patient_ids)
        for name, slides in usable.items():
            of[name] = {
                patient: tuple(sorted(set(ids) & slides))
                for patient, ids in zip(kept, joined.slide_ids, strict=True)
            }
        if len(stores) > 1:
            for name in needed:
                kept, attrition = _with(name, kept, of[name], attrition, cohort)
            attrition = _without_slides_of_lost(
                joined.patient_ids, kept, joined.slide_ids, attrition
            )
        order = sorted(kept)
    store, files = stores.get("image"), stores.get("storm")
    storm = files if isinstance(files, StormStore) else None
    return PatientSlides(
        tuple(order),
        tuple(of["image"].get(patient, ()) for patient in order),
        tuple(of["storm"].get(patient, ()) for patient in order),
        attrition,
        store if isinstance(store, FeatureStore) else None,
        storm,
        VirtualExpression.open(storm) if storm and VIRTUAL in study.inputs else None,
    )


def _usable(store: Store) -> set[str]:
    index = store.index()
    return set(index["slide_id"][index["problem"].isna() & (index["n_tiles"] > 0)])


def _with(
    name: str,
    patient_ids: list[str],
    slides: dict[str, tuple[str, ...]],
    attrition: Attrition,
    cohort: Cohort,
) -> tuple[list[str], Attrition]:
    lost = {p: f"none of its slides has {_FILES[name]}" for p in patient_ids if not slides[p]}
    kept = [patient for patient in patient_ids if patient not in lost]
    if not kept:
        raise CohortError(f"no patient has {_FILES[name]}", where=cohort.manifest_path)
    step = Attrition.left_out(f"with {_FILES[name]}", patient_ids, lost)
    return kept, attrition.joined(step)


def _without_slides_of_lost(
    before: Sequence[str], after: Sequence[str], slide_ids: Slides, attrition: Attrition
) -> Attrition:
    left = set(after)
    slides = {s: p for p, ids in zip(before, slide_ids, strict=True) for s in ids}
    lost = {slide: "its patient is left out" for slide, p in slides.items() if p not in left}
    if not lost:
        return attrition
    return attrition.joined(Attrition.left_out("of these patients", slides, lost, unit="slides"))


def _bags(store: Store | None, slide_ids: Slides) -> Bags | None:
    if store is None:
        return None
    return build_bags(store, [list(of) for of in slide_ids], store.folder / "bags")

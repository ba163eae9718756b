"""Where paired sections lie, as a YAML says it, and reading them one by one. Imports no torch."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Discriminator, Field

from storm_clinic.errors import InputError, SectionError
from storm_clinic.files import Workspace
from storm_clinic.storm.annotated import read_h5ad, read_hest
from storm_clinic.storm.bins import merge_bins
from storm_clinic.storm.gene_choice import read_gene_names
from storm_clinic.storm.her2st import her2st_sections, read_her2st
from storm_clinic.storm.paired import Grid, PairedSection
from storm_clinic.storm.space_ranger import read_space_ranger
from storm_clinic.storm.transcripts import BIN_UM, read_cosmx, read_xenium
from storm_clinic.strict_yaml import StrictModel

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
Length = Annotated[float, Field(gt=0)]
Row = tuple[float, float, float]
_PATH = "File, absolute or under the workspace; ${VARIABLE} is filled in."
_IMAGE = "The full-resolution picture of the H&E; a file like path."
_NAME, _PATIENT = "The section's name.", "Whose it is."
_MPP = "Microns per pixel of the image."
_ROOT = "Folder, absolute or under the workspace; ${VARIABLE} is filled in."


class Her2stSource(StrictModel):
    """Sections of the her2st layout."""

    layout: Literal["her2st"]
    root: str = Field(min_length=1, description=_ROOT)
    sections: tuple[str, ...] | None = Field(
        default=None, min_length=1, description="Such as C2; all that lie there by default."
    )

    def read(self, workspace: Workspace) -> Iterator[PairedSection]:
        """One section after the other."""
        folder = data_folder(self.root, workspace)
        names = self.sections or her2st_sections(folder)
        if not names:
            raise SectionError("holds no section of the her2st layout", where=folder)
        for name in names:
            yield read_her2st(folder, name)


class HestSource(StrictModel):
    """Samples of HEST-1k."""

    layout: Literal["hest"]
    root: str = Field(min_length=1, description=_ROOT)
    samples: tuple[str, ...] = Field(min_length=1, description="Such as TENX95.")

    def read(self, workspace: Workspace) -> Iterator[PairedSection]:
        """One sample after the other."""
        folder = data_folder(self.root, workspace)
        for name in self.samples:
            yield read_hest(folder, name)


class SpaceRangerSource(StrictModel):
    """One run of Space Ranger."""

    layout: Literal["space-ranger"]
    root: str = Field(min_length=1, description=_ROOT)
    name: str = Field(min_length=1, description=_NAME)
    patient: str = Field(min_length=1, description=_PATIENT)
    image: str = Field(min_length=1, description=_IMAGE)
    bin_um: Length | None = Field(
        default=None, description="Merge the small bins of Visium HD to squares of this side."
    )

    def read(self, workspace: Workspace) -> Iterator[PairedSection]:
        """The one section."""
        section = read_space_ranger(
            data_folder(self.root, workspace),
            name=self.name,
            patient=self.patient,
            image=data_file(self.image, workspace),
        )
        yield section if self.bin_um is None else merge_bins(section, self.bin_um)


class H5adSource(StrictModel):
    """Any AnnData file with places of spots; see `read_h5ad`."""

    layout: Literal["h5ad"]
    path: str = Field(min_length=1, description=_PATH)
    name: str = Field(min_length=1, description=_NAME)
    patient: str = Field(min_length=1, description=_PATIENT)
    image: str = Field(min_length=1, description=_IMAGE)
    technology: str = Field(min_length=1, description="Such as visium.")
    grid: Grid = Field(description="How its spots lie: square or hexagonal.")
    spot_um: Length = Field(description="Diameter or side of a spot, in µm.")
    pitch_um: Length = Field(description="Distance of neighbouring spots, in µm.")
    mpp: Length = Field(description=_MPP)
    layer: str | None = Field(default=None, description="Of raw counts, if they are not in X.")

    def read(self, workspace: Workspace) -> Iterator[PairedSection]:
        """The one section."""
        facts = self.model_dump(exclude={"layout", "path", "image"})
        yield read_h5ad(
            data_file(self.path, workspace), image=data_file(self.image, workspace), **facts
        )


class _TranscriptSource(StrictModel):
    """What Xenium and CosMx have in common; their transcripts are binned to pseudo-spots."""

    path: str = Field(min_length=1, description=_PATH)
    name: str = Field(min_length=1, description=_NAME)
    patient: str = Field(min_length=1, description=_PATIENT)
    image: str = Field(min_length=1, description=_IMAGE)
    mpp: Length = Field(description=_MPP)
    to_image: tuple[Row, Row] | None = Field(
        default=None,
        description="Two rows of three: from transcripts in µm to pixels of the image. By default "
        "a place in µm divided by mpp.",
    )
    panel: str | None = Field(
        default=None, min_length=1, description="File with one gene of the panel a line; as path."
    )
    bin_um: Length = Field(default=BIN_UM, description="Side of a pseudo-spot, in µm.")

    def _asked(self, workspace: Workspace) -> dict[str, Any]:
        panel = None if self.panel is None else data_file(self.panel, workspace)
        return {
            "name": self.name,
            "patient": self.patient,
            "mpp": self.mpp,
            "to_image": None if self.to_image is None else np.array(self.to_image),
            "image": data_file(self.image, workspace),
            "genes": None if panel is None else read_gene_names(panel),
            "bin_um": self.bin_um,
        }


class XeniumSource(_TranscriptSource):
    """Transcripts of Xenium; see `read_xenium`."""

    layout: Literal["xenium"]

    def read(self, workspace: Workspace) -> Iterator[PairedSection]:
        """The one section."""
        yield read_xenium(data_file(self.path, workspace), **self._asked(workspace))


class CosmxSource(_TranscriptSource):
    """Transcripts of CosMx; see `read_cosmx`."""

    layout: Literal["cosmx"]
    transcript_mpp: Length = Field(description="µm per pixel of the transcripts' own places.")

    def read(self, workspace: Workspace) -> Iterator[PairedSection]:
        """The one section."""
        yield read_cosmx(
            data_file(self.path, workspace),
            transcript_mpp=self.transcript_mpp,
            **self._asked(workspace),
        )


Source = Annotated[
    Her2stSource | HestSource | SpaceRangerSource | H5adSource | XeniumSource | CosmxSource,
    Discriminator("layout"),
]


def read_sources(sources: Sequence[Source], workspace: Workspace) -> Iterator[PairedSection]:
    """All sections in the order given, one in memory at a time.

    Raises
    ------
    SectionError
        As the readers, or if a name occurs twice.
    InputError
        If a folder is not there, or a variable in it is not set.
    """
    seen: set[str] = set()
    for source in sources:
        for section in source.read(workspace):
            if section.name in seen:
                raise SectionError("occurs twice", where=f"section {section.name}")
            seen.add(section.name)
            yield section


def data_folder(root: str, workspace: Workspace) -> Path:
    """A folder of data with ``${VARIABLE}`` filled in, under the workspace unless absolute.

    Raises
    ------
    InputError
        If a variable is not set, or there is no such folder.
    """
    folder = workspace.path(filled_in(root))
    if not folder.is_dir():
        raise InputError(
            f"{root} is no folder on this machine", where=folder, fix="Correct it, or put it there."
        )
    return folder


def data_file(path: str, workspace: Workspace) -> Path:
    """A file of data, as `data_folder` finds a folder.

    Raises
    ------
    InputError
        If a variable is not set, or there is no such file.
    """
    found = workspace.path(filled_in(path))
    if not found.is_file():
        raise InputError(
            f"{path} is no file on this machine", where=found, fix="Correct it, or put it there."
        )
    return found


def filled_in(text: str) -> str:
    """A path with ``${VARIABLE}`` filled in from the environment.

    Raises
    ------
    InputError
        If a variable is not set.
    """
    for variable in _VARIABLE.findall(text):
        if not os.environ.get(variable):
            raise InputError(
                f"the variable {variable} is not set",
                where=text,
                fix=f"Set it to the folder meant there: export {variable}=/path/to/data",
            )
    return _VARIABLE.sub(lambda match: os.environ[match.group(1)], text)

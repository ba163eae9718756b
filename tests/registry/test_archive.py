"""One file with a model and its record: what comes out is what went in, or nothing."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
import textwrap
import zipfile

import numpy as np
import pytest

from storm_clinic.bundle.archive import REQUIRED, read_archive
from storm_clinic.errors import InputError, RegistryError
from storm_clinic.files import digest_bytes
from storm_clinic.steps.model_export import export_model


@pytest.fixture
def exported(workspace, registry, candidate):
    registry.lock("demo-pfi", by="a.weber")
    return export_model("demo-pfi", "out/demo.zip", workspace=workspace)


@pytest.fixture
def members(exported) -> dict[str, bytes]:
    with zipfile.ZipFile(exported.path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def rewritten(path, members, change=lambda info: None, **options):
    """The members packed anew, each header changed first."""
    with zipfile.ZipFile(path, "w", **options) as archive:
        for name, data in members.items():
            info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            info.create_system, info.external_attr = 3, (stat.S_IFREG | 0o644) << 16
            change(info)
            archive.writestr(info, data)
    return path


def test_bundle_and_record_come_back_whole(exported, registry, bundle, fitted, data):
    found, facts = read_archive(exported.path)
    assert found.digest == bundle.digest
    assert found.models == ("fusion", "clinical")
    for name, model in fitted.items():
        assert found.restore(name).predict(data).risk.tolist() == model.predict(data).risk.tolist()
    events = registry.trail.events()
    assert (facts.model, facts.version, facts.state) == ("demo-pfi", 1, "locked")
    assert (facts.head_seq, facts.head_digest) == (2, events[-1].digest)
    assert [(e.body["event"], e.body["by"]) for e in facts.events] == [
        ("candidate", "c.trainer"),
        ("locked", "a.weber"),
    ]
    assert exported.digest == digest_bytes(exported.path.read_bytes())


def test_the_same_version_gives_the_same_bytes(exported, workspace):
    again = export_model("demo-pfi:1", "again.zip", workspace=workspace)
    assert again.path.read_bytes() == exported.path.read_bytes()


def test_the_members_can_be_read_by_any_program(members, bundle):
    assert tuple(members) == REQUIRED
    for name in ("card.md", "manifest.json", "model.safetensors"):
        assert members[name] == (bundle.folder / name).read_bytes()
    assert json.loads(members["registry.json"])["state"] == "locked"


def test_a_flipped_bit_anywhere_is_refused(exported, tmp_path):
    whole = exported.path.read_bytes()
    rng = np.random.default_rng(3)
    # Every byte of the zip's own structure at the end, and some of everywhere else.
    places = {*range(len(whole) - 120, len(whole)), *range(60), *rng.integers(0, len(whole), 60)}
    path = tmp_path / "changed.zip"
    for at in sorted(map(int, places)):
        changed = bytearray(whole)
        changed[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(changed)
        with pytest.raises(RegistryError):
            read_archive(path)


@pytest.mark.parametrize(
    "name",
    ["../manifest.json", "/etc/passwd", "bundle/manifest.json", "weights.pkl", "card.md\0.txt"],
)
def test_a_member_that_is_not_ours_is_refused_wherever_it_would_lead(
    exported, members, tmp_path, name
):
    path = tmp_path / "more.zip"
    rewritten(path, members)
    with zipfile.ZipFile(path, "a") as archive:
        info = zipfile.ZipInfo("placeholder")
        info.filename = info.orig_filename = name
        archive.writestr(info, b"{}")
    with pytest.raises(RegistryError, match=r"does not belong|no archive of a model"):
        read_archive(path)
    assert [p.name for p in tmp_path.glob("*.zip")] == ["more.zip"]


def test_a_member_that_is_doubled_or_missing_is_refused(members, tmp_path):
    path = tmp_path / "twice.zip"
    rewritten(path, members)
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(path, "a") as archive:
        archive.writestr("card.md", b"another card")
    with pytest.raises(RegistryError, match=r"card\.md: is there twice"):
        read_archive(path)
    fewer = {name: data for name, data in members.items() if name != "registry.json"}
    with pytest.raises(RegistryError, match=r"registry\.json: is missing"):
        read_archive(rewritten(tmp_path / "fewer.zip", fewer))


def test_a_link_an_encrypted_and_a_compressed_member_are_refused(members, tmp_path):
    def link(info):
        info.external_attr = (stat.S_IFLNK | 0o777) << 16

    def deflated(info):
        info.compress_type = zipfile.ZIP_DEFLATED

    with pytest.raises(RegistryError, match="is a link"):
        read_archive(rewritten(tmp_path / "link.zip", members, link))
    # What unpacks to a hundred times its size never gets that far.
    bomb = members | {"model.safetensors": bytes(10_000_000)}
    with pytest.raises(RegistryError, match="is compressed"):
        read_archive(rewritten(tmp_path / "bomb.zip", bomb, deflated))
    path = rewritten(tmp_path / "locked.zip", members)
    data = bytearray(path.read_bytes())
    at = data.index(b"PK\x01\x02") + 8  # the flags of the first entry of the directory
    data[at] |= 1
    path.write_bytes(data)
    with pytest.raises(RegistryError, match="is encrypted"):
        read_archive(path)


def test_an_archive_that_says_it_is_larger_than_it_is_is_refused(members, tmp_path):
    path = rewritten(tmp_path / "large.zip", members)
    data = bytearray(path.read_bytes())
    at = data.index(b"PK\x01\x02")
    for offset in (20, 24):  # compressed and plain size
        data[at + offset : at + offset + 4] = (200 << 20).to_bytes(4, "little")
    path.write_bytes(data)
    with pytest.raises(RegistryError, match=r"card\.md.*too large"):
        read_archive(path)


def test_no_archive_at_all_is_said_to_be_none(tmp_path):
    with pytest.raises(RegistryError, match="cannot be read"):
        read_archive(tmp_path / "absent.zip")
    (tmp_path / "text.zip").write_text("not a zip")
    with pytest.raises(RegistryError, match="is no archive of a model"):
        read_archive(tmp_path / "text.zip")


def test_an_edited_record_is_refused_though_it_is_packed_well(members, tmp_path):
    record = json.loads(members["registry.json"])
    record["events"][1]["body"]["by"] = "somebody.else"
    text = json.dumps(record, indent=2, sort_keys=True) + "\n"
    path = rewritten(tmp_path / "edited.zip", members | {"registry.json": text.encode()})
    with pytest.raises(RegistryError, match="event 2 was edited"):
        read_archive(path)


def test_a_state_that_no_event_gives_is_refused(members, tmp_path):
    from storm_clinic.steps.scorer import Scorer

    record = json.loads(members["registry.json"])
    record["state"] = "approved"
    text = json.dumps(record, indent=2, sort_keys=True) + "\n"
    path = rewritten(tmp_path / "risen.zip", members | {"registry.json": text.encode()})
    with pytest.raises(RegistryError, match=r"says that the model is approved; .* it is locked"):
        Scorer.load(path)


def test_the_record_of_another_bundle_is_refused(members, tmp_path):
    record = json.loads(members["registry.json"])
    for event in record["events"]:
        event["body"]["bundle_digest"] = "f" * 64
        body = json.dumps(event["body"], sort_keys=True, separators=(",", ":"))
        event["digest"] = digest_bytes(f"{event['seq']}\n{event['previous']}\n{body}".encode())
    text = json.dumps(record, indent=2, sort_keys=True) + "\n"
    path = rewritten(tmp_path / "swapped.zip", members | {"registry.json": text.encode()})
    with pytest.raises(RegistryError, match="another bundle"):
        read_archive(path)


def test_an_archive_must_be_named_as_one(workspace, candidate):
    with pytest.raises(InputError, match=r"must end in \.zip"):
        export_model("demo-pfi", "demo.tar", workspace=workspace)


def test_an_archive_scores_without_workspace_network_and_mlflow(exported, data, fitted, tmp_path):
    first = data.take(np.array([4]))
    np.save(tmp_path / "tiles.npy", first.bags.bag(0))
    row = first.clinical.iloc[0]
    (tmp_path / "row.json").write_text(json.dumps({"age": row["age"], "stage": row["stage"]}))
    script = f"""
        import json, socket, sys
        import numpy as np

        def refused(*_, **__):
            raise AssertionError("the network was asked for")

        socket.socket.connect = socket.create_connection = socket.getaddrinfo = refused
        import storm_clinic as sc

        scorer = sc.Scorer.load({str(exported.path)!r})
        score = scorer(np.load("tiles.npy"), clinical=json.load(open("row.json")))
        assert "mlflow" not in sys.modules
        print(json.dumps([score.risk, score.notices]))
    """
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(script)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    risk, notices = json.loads(ran.stdout)
    assert risk == fitted["fusion"].predict(first).risk[0]
    assert notices[0] == "the model is locked, not approved"
    assert notices[1].startswith("state as of the export at row 2 of the trail, ")
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_dir()) == ["work space"]


def test_facts_are_compared_by_what_they_say(exported):
    _, facts = read_archive(exported.path)
    assert facts == exported.facts

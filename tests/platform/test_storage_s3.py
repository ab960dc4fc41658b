"""Storage on S3: the same as on disk, with boto3's credentials, and faults that pass are lived through."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ember_platform import storage
from tests.s3 import BUCKET, LocalS3, local_s3

BASE = f"s3://{BUCKET}/a/b"


@pytest.fixture
def s3() -> Iterator[LocalS3]:
    with local_s3(AWS_MAX_ATTEMPTS="3", EMBERVLM_S3_TIMEOUT="2") as server:
        yield server


def test_the_same_as_on_disk(s3: LocalS3, tmp_path: Path) -> None:
    for base in (BASE, str(tmp_path)):
        path = storage.join(base, "c", "d.txt")
        assert not storage.exists(path)
        assert storage.identity(path) is None
        assert storage.list_files(storage.join(base, "c")) == []
        with pytest.raises(storage.StorageError, match=r"d\.txt: cannot be read"):
            storage.read_bytes(path)
        storage.write_bytes(path, b"one")
        storage.write_bytes(path, b"twofold")
        assert storage.read_bytes(path) == b"twofold"
        assert storage.read_bytes(path, 3, 2) == b"fo"
        assert storage.read_bytes(path, 3) == b"fold"
        assert storage.read_bytes(path, 0, 99) == b"twofold"
        assert storage.digest(path) == storage.digest_bytes(b"twofold")
        identity = storage.identity(path)
        assert identity is not None
        assert identity[:2] == ("d.txt", 7)
        assert storage.exists(storage.join(base, "c"))
        with storage.drafted(storage.join(base, "e.parquet")) as draft:
            pq.write_table(pa.table({"x": [1, 2]}), draft)
        with storage.open_input(storage.join(base, "e.parquet")) as file:
            assert pq.read_table(file).column("x").to_pylist() == [1, 2]
        assert storage.list_files(base) == [path, storage.join(base, "e.parquet")]
        storage.delete(path)
        storage.delete(path)
        assert storage.list_files(base) == [storage.join(base, "e.parquet")]


def test_a_write_that_fails_leaves_what_was_there(s3: LocalS3) -> None:
    path = storage.join(BASE, "x")
    storage.write_bytes(path, b"before")
    with pytest.raises(TypeError):
        storage.write_bytes(path, "no bytes")  # type: ignore[arg-type]

    def give_up_half_way() -> None:
        with storage.drafted(path) as draft:
            draft.write_bytes(b"half")
            raise ValueError("half-way")

    with pytest.raises(ValueError, match="half-way"):
        give_up_half_way()
    s3.always = "500"
    with pytest.raises(storage.StorageError, match="a/b/x: cannot be written"):
        storage.write_bytes(path, b"after")
    s3.always = ""
    assert storage.read_bytes(path) == b"before"


def write_then_read(content: bytes) -> Callable[[], None]:
    def work() -> None:
        path = storage.join(BASE, "w")
        storage.write_bytes(path, content)
        assert storage.read_bytes(path) == content

    return work


LOOKED = storage.join(BASE, "looked")  # a folder that no other test writes to


def look() -> None:
    # Arrow cannot repeat a read whose buffer is shorter than the text of the error: files here are longer.
    content = b"1" * 10_000
    storage.write_bytes(storage.join(LOOKED, "y"), content)
    assert storage.exists(storage.join(LOOKED, "y"))
    assert storage.list_files(LOOKED) == [storage.join(LOOKED, "y")]
    assert storage.digest(storage.join(LOOKED, "y")) == storage.digest_bytes(content)


@pytest.mark.parametrize("fault", ["500", "503", "reset", "cut"])
@pytest.mark.parametrize("work", [write_then_read(b"x" * 100_000), look], ids=["write and read", "look"])
def test_faults_that_pass_are_lived_through(s3: LocalS3, fault: str, work: Callable[[], None]) -> None:
    # Every second request fails, so that every kind of request of the work does.
    s3.faults.extend(["", fault] * 8)
    work()
    assert sum(found == fault for _, _, found in s3.seen) >= 1


def test_a_large_write_in_parts_outlives_faults(s3: LocalS3, monkeypatch: pytest.MonkeyPatch) -> None:
    # The parts go out at once, so all three faults may meet the same one.
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "4")
    content = os.urandom(23 << 20)
    s3.faults.extend(["", "500", "", "reset", "", "503"])
    storage.write_bytes(storage.join(BASE, "large"), content)
    assert [fault for _, _, fault in s3.seen].count("reset") == 1
    assert storage.read_bytes(storage.join(BASE, "large")) == content


def test_an_answer_that_stalls_is_given_up_and_asked_for_again(s3: LocalS3) -> None:
    storage.write_bytes(storage.join(BASE, "z"), b"1")
    s3.faults.append("stall")
    assert storage.read_bytes(storage.join(BASE, "z")) == b"1"
    assert [fault for _, _, fault in s3.seen].count("stall") == 1


@pytest.mark.parametrize("fault", ["500", "reset"])
def test_faults_that_stay_are_given_up(s3: LocalS3, fault: str) -> None:
    s3.always = fault
    for work in (storage.read_bytes, storage.exists, storage.list_files):
        s3.seen.clear()
        with pytest.raises(storage.StorageError, match="a/b/gone: cannot be"):
            work(storage.join(BASE, "gone"))
        assert 2 <= len(s3.seen) <= 6  # AWS_MAX_ATTEMPTS for each of at most two requests


def test_a_client_that_travels_keeps_its_patience_and_no_secret(s3: LocalS3) -> None:
    filesystem, inside = storage.resolve(BASE)
    sent = pickle.dumps(filesystem)
    assert b"secret" not in sent
    travelled = pickle.loads(sent)
    s3.faults.extend(["500", "500"])
    with travelled.open_output_stream(f"{inside}/q") as file:
        file.write(b"1")
    assert storage.read_bytes(storage.join(BASE, "q")) == b"1"
    assert [fault for _, _, fault in s3.seen].count("500") == 2


def test_settings_come_from_a_profile_as_boto3_reads_it(
    s3: LocalS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config").write_text(f"[profile lab]\nregion = eu-west-9\nendpoint_url = {s3.endpoint}\n")
    (tmp_path / "credentials").write_text("[lab]\naws_access_key_id = known\naws_secret_access_key = hidden\n")
    for name in ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_PROFILE", "lab")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    storage.write_bytes(storage.join(BASE, "p"), b"1")
    assert ("PUT", f"/{BUCKET}/a/b/p", "") in s3.seen  # by path
    assert storage.resolve(BASE)[0].region == "eu-west-9"


@pytest.mark.parametrize("value", ["none", "-1", "0"])
def test_a_setting_that_cannot_be_meant(s3: LocalS3, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("EMBERVLM_S3_TIMEOUT", value)
    with pytest.raises(storage.StorageError, match="EMBERVLM_S3_TIMEOUT: expected a number above 0"):
        storage.exists(BASE)

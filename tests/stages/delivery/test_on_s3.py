"""A delivery from a bucket to a bucket equals one on a disk, over the real S3 protocol (moto's server on loopback)."""

import pytest
from s3fs import S3FileSystem

from schemas import Store
from stages.delivery.choosing import choose_clips
from stages.delivery.delivering import deliver
from stages.delivery.making import Form, Maker
from tests.worlds.delivered_clips import delivered_store
from tests.worlds.object_store import object_store


@pytest.fixture
def bucket(tmp_path):
    with object_store() as filesystem:
        name = f"music-{abs(hash(tmp_path))}"  # buckets of one server exist in the next one too
        filesystem.mkdir(name)
        yield f"s3://{name}"


def test_a_delivery_to_a_bucket_equals_one_on_a_disk_and_the_second_writes_nothing(bucket, tmp_path):
    store = delivered_store(tmp_path / "s")
    S3FileSystem().put(store.root, f"{bucket}/store", recursive=True)
    for source, target in ((store.url, str(tmp_path / "d")), (f"{bucket}/store", f"{bucket}/delivery")):
        opened = Store(source)
        chosen = choose_clips(opened, where="take = 2 OR name = 'test'")
        arguments = (opened, chosen, target, Maker(opened, Form("ogg", 44_100)), "{name}_{take}")
        assert deliver(*arguments).written == 2
        again = deliver(*arguments)
        assert (again.written, again.kept, again.other_files) == (0, 2, 0)
        assert deliver(opened, chosen[:1], *arguments[2:], prune=True).removed == 1
    files = [path for path in (tmp_path / "d").rglob("*") if path.is_file()]
    local = {path.relative_to(tmp_path / "d").as_posix(): path.read_bytes() for path in files}
    remote = S3FileSystem().find(f"{bucket}/delivery")
    assert {name.partition("/delivery/")[2]: S3FileSystem().cat_file(name) for name in remote} == local


def test_a_bucket_with_other_files_is_left_alone(bucket, tmp_path):
    store = delivered_store(tmp_path / "s")
    S3FileSystem().pipe_file(f"{bucket}/theirs/thesis.doc", b"years")
    with pytest.raises(ValueError, match=r"thesis\.doc"):
        deliver(store, choose_clips(store), f"{bucket}/theirs", Maker(store, Form()), "{name}_{take}")

"""As many records as ImageNet's validation has, tiny ones: none is lost, none comes twice, however they are listed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")

from conformance.data.imagenet import batches, example  # noqa: E402
from conformance.data.shards import find_shards, shard_name  # noqa: E402

pytestmark = pytest.mark.tensorflow

IMAGES, SHARDS, BATCH = 50_000, 16, 96


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("data")
    encoded = bytes(tf.io.encode_jpeg(np.zeros((32, 32, 3), np.uint8)).numpy())
    for shard in reversed(range(SHARDS)):  # made in another order than they are numbered
        with tf.io.TFRecordWriter(str(directory / shard_name("validation", shard, SHARDS))) as writer:
            for n in range(shard, IMAGES, SHARDS):
                writer.write(example(encoded, 32, 32, n % 10 + 1, b"digit", b"image-%05d.JPEG" % n))
    return directory


def test_50_000_images_come_once_however_the_shards_are_listed(data: Path) -> None:
    paths = find_shards(str(data), "validation")
    assert paths == sorted(map(str, data.iterdir()))
    found = list(batches(paths[::-1], BATCH, "digits", threads=2))
    assert [len(batch.labels) for batch in found] == [BATCH] * (IMAGES // BATCH) + [IMAGES % BATCH]
    assert np.bincount(np.concatenate([batch.labels for batch in found])).tolist() == [0] + [IMAGES // 10] * 10
    names = np.concatenate([batch.filenames for batch in found])
    assert sorted(names) == [b"image-%05d.JPEG" % number for number in range(IMAGES)]

"""What gives a training its pictures: the promises of ``train.feed.Feed``, checked on every kind of feed."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from edgecnn.data.source import open_data
from edgecnn.data.stream import open_stream
from edgecnn.data.tensors import load_split
from edgecnn.spec import Preprocess, Split
from edgecnn.train.config import TrainConfig
from edgecnn.train.distributed import World
from edgecnn.train.feed import Batch, Feed, Pictures, feed_of

P = Preprocess(8, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
SIZE = 12
Make = Callable[..., Feed]


def write_shards(root: Path, shards: int = 6, pictures: int = 9) -> Path:
    """Shards of pictures of one grey each, which is their number; the class is whether it is odd."""
    number = 0
    for split, count in (("train", shards), ("val", 1), ("test", 1)):
        for shard in range(count):
            with tarfile.open(root / f"{split}-{shard:03d}.tar", "w") as tar:
                for _ in range(pictures):
                    picture = io.BytesIO()
                    Image.new("RGB", (8, 8), (number,) * 3).save(picture, "PNG")
                    for kind, content in (("png", picture.getvalue()), ("cls", str(number % 2).encode())):
                        entry = tarfile.TarInfo(f"{number:04d}.{kind}")
                        entry.size = len(content)
                        tar.addfile(entry, io.BytesIO(content))
                    number += 1
    return root


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shards(tmp_path_factory.mktemp("shards"))


@pytest.fixture(params=["array", "stream", "stream of files"])
def make(request: pytest.FixtureRequest, shards: Path, tmp_path: Path) -> Make:
    """Makes the feed of the 54 training pictures for some settings."""

    def made(**settings: int) -> Feed:
        pictures: Pictures
        if request.param == "stream of files":
            for number in range(54):
                (tmp_path / "train" / str(number % 2)).mkdir(parents=True, exist_ok=True)
                file = tmp_path / "train" / str(number % 2) / f"{number:04d}.png"
                Image.new("RGB", (8, 8), (number,) * 3).save(file)
            for split in ("val", "test"):
                for label in range(2):
                    (tmp_path / split / str(label)).mkdir(parents=True, exist_ok=True)
                    Image.new("RGB", (8, 8), (200,) * 3).save(tmp_path / split / str(label) / "0.png")
            pictures = open_stream(open_data(str(tmp_path)), P)
        else:
            data = open_data(str(shards), sampled=request.param == "stream")
            array = request.param == "array"
            pictures = load_split(data, Split.TRAIN, P) if array else open_stream(data, P)
        config = TrainConfig(epochs=1, batch_size=SIZE, **{"shuffle": 16, **settings})  # type: ignore[arg-type]
        return feed_of(pictures, config, World())

    return made


def draw(epoch: int, step: int | None = None) -> torch.Generator:
    return torch.Generator().manual_seed(1000 * epoch + (0 if step is None else step + 1))


def batches(feed: Feed, epoch: int, first: int = 0) -> list[Batch]:
    return [batch for batch, _ in feed.batches(epoch, first, SIZE, draw)]


def numbers(found: list[Batch]) -> list[int]:
    """The pictures of the batches, told by their grey."""
    return [int(picture[0, 0, 0]) for batch in found for picture in batch.images]


def test_an_epoch_shows_no_picture_twice_and_each_with_what_belongs_to_it(make: Make) -> None:
    feed = make()
    assert len(feed) == len(feed.labels) == len(feed.ids) == 54 and feed.shape == (8, 8, 3)
    found = batches(feed, 0)
    assert [len(batch) for batch in found] == [SIZE] * 4
    seen = numbers(found)
    assert len(set(seen)) == 48
    assert [int(label) for batch in found for label in batch.labels] == [number % 2 for number in seen]
    assert [int(Path(id).stem) for batch in found for id in batch.ids] == seen
    assert all(batch.images.dtype == torch.uint8 and batch.images.shape == (SIZE, 8, 8, 3) for batch in found)
    assert not feed.skipped


def test_what_comes_depends_on_the_epoch_alone(make: Make) -> None:
    first, again = make(), make()
    epochs = [numbers(batches(first, epoch)) for epoch in range(6)]
    assert [numbers(batches(again, epoch)) for epoch in (2, 0, 1)] == [epochs[2], epochs[0], epochs[1]]
    assert len({tuple(epoch) for epoch in epochs}) == 6
    assert all(epoch != sorted(epoch) for epoch in epochs)
    assert set().union(*epochs) == set(range(54))  # what is left over is not always the same


def test_an_epoch_can_be_taken_up_in_its_middle(make: Make) -> None:
    feed = make()
    whole = [(batch, generator.get_state()) for batch, generator in feed.batches(1, 0, SIZE, draw)]
    rest = [(batch, generator.get_state()) for batch, generator in feed.batches(1, 3, SIZE, draw)]
    assert numbers([batch for batch, _ in rest]) == numbers([batch for batch, _ in whole[3:]])
    if feed.anywhere:
        assert torch.equal(rest[0][1], whole[3][1])


def test_a_batch_may_have_each_picture_several_times(make: Make) -> None:
    feed = make(repeat=3)
    found = batches(feed, 0)
    assert [len(batch) for batch in found] == [SIZE] * 4
    seen = [numbers([batch]) for batch in found]
    assert all(each == each[:4] * 3 and len(set(each)) == 4 for each in seen)
    assert len({number for each in seen for number in each}) == 16


def test_some_pictures_to_try_are_always_the_same(make: Make) -> None:
    feed = make()
    assert feed.some(5).shape == (5, 8, 8, 3)
    assert torch.equal(feed.some(5), feed.some(5))


def test_shuffling_all_at_once_is_the_order_of_pictures_in_memory(shards: Path) -> None:
    config = TrainConfig(epochs=1, batch_size=SIZE, shuffle=54)
    data = open_data(str(shards))
    pictures: list[Pictures] = [load_split(data, Split.TRAIN, P), open_stream(data, P)]
    array, stream = (batches(feed_of(each, config, World()), 1) for each in pictures)
    assert numbers(array) == numbers(stream)
    assert all(
        torch.equal(ours.images, theirs.images) and torch.equal(ours.labels, theirs.labels) and ours.ids == theirs.ids
        for ours, theirs in zip(array, stream, strict=True)
    )


def test_a_set_is_the_same_whether_all_of_it_is_decoded_or_a_sample(shards: Path) -> None:
    whole, sampled = open_data(str(shards)), open_data(str(shards), sampled=True)
    assert whole.digest == sampled.digest and whole.splits == sampled.splits and whole.labels == sampled.labels
    assert not whole.notes and sampled.notes == ("72 of 72 pictures were decoded to check them",)
    assert np.array_equal(open_stream(sampled, P).labels, load_split(whole, Split.TRAIN, P).labels)

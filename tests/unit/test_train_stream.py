"""Training on a stream: the same after a kill, flat in memory, like an array where the two can be alike."""

from __future__ import annotations

import gc
import os
import signal
import tracemalloc
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from edgecnn.data import stream as streams
from edgecnn.data.items import Item
from edgecnn.data.stream import ImageStream, open_stream
from edgecnn.data.tensors import ImageTensors, load_items
from edgecnn.errors import DataError, StoppedError
from edgecnn.spec import Preprocess, Split
from edgecnn.train import checkpoint, keeping
from edgecnn.train.config import TrainConfig
from edgecnn.train.distill import Teacher
from edgecnn.train.distributed import World
from edgecnn.train.feed import Batch, feed_of
from edgecnn.train.history import Row
from edgecnn.train.loop import LAST, TrainResult, fit
from edgecnn.train.run import Run

P = Preprocess(8, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
CONFIG = TrainConfig(
    epochs=3, batch_size=16, lr=0.1, shift=1, cutout=2, mixup=0.3, ema=0.9, shuffle=24,
    precision="fp32", device="cpu", threads=1,
)  # fmt: skip


@dataclass(frozen=True)
class Painted:
    """Dark and bright noise, painted when it is asked for; some of it may be broken."""

    count: int
    size: int = 8
    broken: frozenset[int] = frozenset()
    name: str = "painted"
    labels: tuple[str, ...] = ("dark", "bright")
    digest: str = "painted"
    notes: tuple[str, ...] = ()
    reads: list[str] = field(default_factory=list)

    @property
    def splits(self) -> Mapping[Split, tuple[Item, ...]]:
        return {Split.TRAIN: tuple(Item(f"{number:06d}", number % 2) for number in range(self.count))}

    def read(self, item: Item) -> Image.Image:
        self.reads.append(item.id)
        number = int(item.id)
        if number in self.broken:
            raise DataError(f"{item.id}: torn")
        noise = np.random.default_rng(number).integers(0, 120, (self.size, self.size, 3))
        return Image.fromarray((noise + 60 * item.label).astype(np.uint8))


class Tiny(nn.Module):
    """Batch norm and dropout: one of everything that carries state or randomness."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.dropout, self.classifier = nn.Dropout(0.2), nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.bn(self.conv(x)))
        logits: torch.Tensor = self.classifier(self.dropout(x.mean((2, 3))))
        return logits


def stream_of(count: int, per_file: int = 10, **options: object) -> ImageStream:
    """Painted pictures in files of so many."""
    data = Painted(count, **options)  # type: ignore[arg-type]
    places = np.arange(count)
    return replace(open_stream(data, replace(P, size=data.size)), files=places // per_file, offsets=places % per_file)


def array_of(count: int) -> ImageTensors:
    data = Painted(count)
    return load_items(data, data.splits[Split.TRAIN], P)


VAL = array_of(40)


def train(workdir: Path, config: TrainConfig = CONFIG, **options: object) -> tuple[nn.Module, TrainResult]:
    torch.manual_seed(7)
    model = Tiny()
    pictures = options.pop("pictures", None) or stream_of(90)
    return model, fit(model, pictures, VAL, P, config, workdir, **options)  # type: ignore[arg-type]


def without_times(rows: list[Row]) -> list[Row]:
    return [{key: value for key, value in row.items() if key not in ("seconds", "images_per_second")} for row in rows]


def assert_same(first: tuple[nn.Module, TrainResult], second: tuple[nn.Module, TrainResult]) -> None:
    other = second[0].state_dict()
    assert all(torch.equal(tensor, other[name]) for name, tensor in first[0].state_dict().items())
    assert without_times(first[1].history) == without_times(second[1].history)


def test_it_learns_and_decodes_a_few_pictures_ahead_only(tmp_path: Path) -> None:
    pictures = stream_of(90)
    most = 0

    def watch(epoch: int, step: int, steps: int) -> None:
        nonlocal most
        assert steps == 5
        most = max(most, len(pictures.data.reads) - 16 * (5 * (epoch - 1) + step))  # type: ignore[attr-defined]

    _, result = train(tmp_path, replace(CONFIG, epochs=6), pictures=pictures, on_step=watch)
    assert result.best_top1 > 0.9
    assert most <= 16 * (streams.AHEAD + 1) + 2 * 16 + 1  # and those to try precision on, and the one for the shape


@pytest.mark.parametrize("settings", [{}, {"repeat": 2, "views": 2}], ids=["plain", "taught"])
def test_a_training_killed_in_an_epoch_goes_on_there_and_ends_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, int]
) -> None:
    monkeypatch.setattr(keeping, "KEEP_STEPS", 2)
    config = replace(CONFIG, **settings)  # type: ignore[arg-type]
    torch.manual_seed(3)
    taught = {"teacher": Teacher(Tiny(), P)} if settings else {}
    whole = train(tmp_path / "whole", config, **taught)

    def kill(epoch: int, step: int, steps: int) -> None:
        if (epoch, step) == (2, 5):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "cut", config, on_step=kill, **taught)
    kept = checkpoint.read(tmp_path / "cut" / LAST)[1]
    assert len(kept["history"]) == 1 and kept["begun"]["steps"] == 4
    places: list[tuple[int, ...]] = []
    pictures = stream_of(90)
    resumed = train(
        tmp_path / "cut", config, pictures=pictures, on_step=lambda *place: places.append(place[:2]), **taught
    )
    assert places == [(2, 5), *((3, step) for step in range(1, 6))]
    assert_same(whole, resumed)
    assert len(pictures.data.reads) <= 6 * 16 + 1  # type: ignore[attr-defined]


def test_sigterm_keeps_the_very_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = train(tmp_path / "whole")
    step = Run.step

    def ask(self: Run, chosen: Batch, taken: int, generator: torch.Generator) -> tuple[float, int]:
        if taken == 6:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, chosen, taken, generator)

    with monkeypatch.context() as patch, pytest.raises(StoppedError) as caught:
        patch.setattr(Run, "step", ask)
        train(tmp_path / "cut")
    told = "stopped by SIGTERM after epoch 2, step 2 of 5; run the same command again to go on from epoch 2, step 3"
    assert caught.value.message == told
    places: list[tuple[int, ...]] = []
    assert_same(whole, train(tmp_path / "cut", on_step=lambda *place: places.append(place[:2])))
    assert places[0] == (2, 3)


def test_it_learns_what_an_array_teaches_where_order_and_augmentation_are_alike(tmp_path: Path) -> None:
    config = replace(CONFIG, shift=0, flip=False, cutout=0, mixup=0, shuffle=90)

    def trained(name: str, pictures: object) -> tuple[nn.Module, TrainResult]:
        torch.manual_seed(7)
        model = Tiny()
        model.dropout = nn.Dropout(0)
        return model, fit(model, pictures, VAL, P, config, tmp_path / name)  # type: ignore[arg-type]

    assert_same(trained("array", array_of(90)), trained("stream", stream_of(90)))


def test_another_feed_is_another_training(tmp_path: Path) -> None:
    names = {checkpoint.identity(Tiny(), each, VAL, P, CONFIG) for each in (array_of(90), stream_of(90))}
    assert len(names) == 2


def test_another_picture_stands_in_for_a_broken_one_and_it_is_told(tmp_path: Path) -> None:
    pictures = stream_of(400, broken=frozenset({50, 51, 399}))
    lines: list[str] = []
    _, result = train(tmp_path, replace(CONFIG, epochs=1), pictures=pictures, tell=lines.append)
    assert lines == ["3 training pictures are broken, others stand in for them: 000050, 000051, 000399"]
    assert result.skipped_images == 3
    images, used = pictures.take(np.array([50, 51, 399, 7]))
    assert used.tolist() == [52, 52, 0, 7]
    assert np.array_equal(images[0], np.asarray(pictures.data.read(Item("000052", 0))))
    assert pictures.broken[51] == "000051: torn"


def test_too_many_broken_pictures_are_an_error_with_their_names(tmp_path: Path) -> None:
    lines: list[str] = []
    with pytest.raises(DataError, match=r"more than 2 of 200 training pictures of painted") as told:
        train(tmp_path, pictures=stream_of(200, broken=frozenset({3, 60, 120})), tell=lines.append)
    assert all(f"0000{number:02d}: torn" in told.value.message for number in (3, 60))
    with pytest.raises(DataError, match=r"100 pictures in a row cannot be read, the last one being .*: torn"):
        train(tmp_path, pictures=stream_of(200, broken=frozenset(range(150))))


def test_a_sample_is_the_same_each_time_and_of_all_classes() -> None:
    first, again = stream_of(90).sample(20), stream_of(90).sample(20)
    assert first.ids == again.ids and np.array_equal(first.images, again.images)
    assert len(first) == 20 and np.bincount(first.labels).tolist() == [10, 10]


def test_memory_of_an_epoch_does_not_grow_with_the_set() -> None:
    side, size, peaks = 48, 8, []
    for count in (320, 960):
        feed = feed_of(stream_of(count, size=side), replace(CONFIG, shuffle=128), World())
        feed.workers = 2  # type: ignore[attr-defined]
        gc.collect()
        tracemalloc.start()
        for _ in feed.batches(0, 0, size, lambda *_: torch.Generator().manual_seed(0)):
            pass
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    batch, decoded = size * side * side * 3, 960 * side * side * 3
    assert peaks[1] < (streams.AHEAD + 11) * batch < decoded / 8  # batches, and what pictures are painted with
    assert peaks[1] - peaks[0] < 0.03 * (decoded - decoded / 3)

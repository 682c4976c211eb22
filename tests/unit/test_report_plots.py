from __future__ import annotations

import math
import re
from xml.etree import ElementTree

import pytest

from edgecnn.report.axes import Scale, linear_ticks, padded_scale, positive_scale
from edgecnn.report.confusion import confusion_words, draw_confusion, mistakes, recalls
from edgecnn.report.curves import draw_curves
from edgecnn.report.markup import Markup, element, text
from edgecnn.report.rows import Confusion, Curves, Row
from edgecnn.report.scatter import FRAME, draw_key, draw_scatter, frontier, outline
from edgecnn.spec import Format, Precision, Runtime, Status


def row(latency_ms: float | None = 1.0, top1: float | None = 0.9, **changes: object) -> Row:
    values: dict[str, object] = {
        "model": "m",
        "format": Format.ONNX,
        "precision": Precision.FP32,
        "runtime": Runtime.ONNXRUNTIME,
        "threads": 1,
        "latency_ms": latency_ms,
        "top1": top1,
        "size_bytes": 1000,
    }
    return Row(**(values | changes))


def tree(markup: Markup | None) -> ElementTree.Element:
    assert markup is not None
    return ElementTree.fromstring(markup)


def marks(markup: Markup | None, css: str) -> list[ElementTree.Element]:
    return [found for found in tree(markup).iter() if css in (found.get("class") or "").split()]


def test_text_is_escaped_unless_it_is_markup() -> None:
    assert element("b", '<i>&"', title='"<') == '<b title="&quot;&lt;">&lt;i&gt;&amp;&quot;</b>'
    assert element("b", element("i", "x")) == "<b><i>x</i></b>"
    assert text("a\x00b") == "a\ufffdb"
    assert (
        element("a", class_="c", aria_label="l", hidden=True, id=None, x=1.0)
        == '<a class="c" aria-label="l" hidden x="1"></a>'
    )


def test_scales_map_their_ends_and_logarithms_their_ratios() -> None:
    linear = Scale(0, 10, 100, 200)
    assert [linear(0), linear(10), linear(2.5)] == [100, 200, 125]
    log = Scale(0.1, 10, 0, 100, logarithmic=True)
    assert log(1) == pytest.approx(50)
    assert log.ticks() == pytest.approx([0.1, 0.2, 0.5, 1, 2, 5, 10])
    assert positive_scale([1, 9], 0, 1).logarithmic is False
    assert positive_scale([1, 11], 0, 1).logarithmic is True


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (0.8912, 0.9013), (0.0, 12345.0), (0.2, 0.2000001)])
def test_ticks_are_round_few_and_inside(low: float, high: float) -> None:
    ticks = linear_ticks(low, high)
    assert 2 <= len(ticks) <= 8
    assert all(low - 1e-9 <= tick <= high * (1 + 1e-9) for tick in ticks)


def test_equal_figures_still_have_a_scale() -> None:
    for value in (0.0, 0.5, 1.0):
        scale = padded_scale([value], 0, 100, floor=0.0, ceiling=1.0)
        assert scale.low < scale.high
        assert 0 <= scale(value) <= 100


def test_a_mark_stands_where_its_figures_say() -> None:
    drawn = draw_scatter([row(2.0, 0.9), row(4.0, 0.8), row(8.0, 0.8)])
    circles = [circle for group in marks(drawn, "mark") for circle in group.iter("circle")]
    places = [(float(c.get("cx", "nan")), float(c.get("cy", "nan"))) for c in circles]
    left = FRAME.left
    assert places[1][0] - left == pytest.approx(2 * (places[0][0] - left), abs=0.1)  # linear from zero
    assert places[2][0] - left == pytest.approx(4 * (places[0][0] - left), abs=0.1)
    assert places[0][1] < places[1][1] == places[2][1]  # a higher accuracy is higher on paper


def test_area_is_size_whatever_the_shape() -> None:
    drawn = draw_scatter(
        [row(size_bytes=4000), row(2.0, size_bytes=1000), row(3.0, size_bytes=1000, precision=Precision.INT8)]
    )
    radii = [float(circle.get("r", "0")) for circle in tree(drawn).iter("circle")]
    (square,) = tree(drawn).iter("rect")
    assert (radii[0] / radii[1]) ** 2 == pytest.approx(4, rel=0.01)
    assert float(square.get("width", "0")) ** 2 == pytest.approx(math.pi * radii[1] ** 2, rel=0.01)
    assert outline("diamond", 0, 0, 1).startswith("<path")


def test_error_bars_span_both_intervals() -> None:
    drawn = draw_scatter([row(4.0, 0.9, latency_low=2.0, latency_high=8.0, top1_low=0.85, top1_high=0.93)])
    (bars,) = marks(drawn, "bars")
    across, along = bars.iter("line")
    zero, middle = FRAME.left, float(along.get("x1", "nan"))
    assert float(across.get("x1", "nan")) - zero == pytest.approx((middle - zero) / 2, abs=0.1)
    assert float(across.get("x2", "nan")) - zero == pytest.approx(2 * (middle - zero), abs=0.1)
    height = float(across.get("y1", "nan"))
    assert float(along.get("y1", "nan")) - height == pytest.approx(
        5 / 3 * (height - float(along.get("y2", "nan"))), rel=0.01
    )


def test_only_measured_rows_are_drawn_under_their_number_in_the_table() -> None:
    rows = [row(None), row(2.0, None), row(0.0), row(status=Status.FAILED), row(3.0, status=Status.INCONCLUSIVE)]
    drawn = draw_scatter(rows)
    assert len(marks(drawn, "mark")) == 1
    assert [label.text for label in marks(drawn, "label")] == ["5"]
    assert len(marks(drawn, "inconclusive")) == 1
    assert draw_scatter(rows[:4]) is None
    assert draw_scatter([]) is None


def test_colour_follows_the_runtime_and_the_key_shows_what_is_drawn() -> None:
    rows = [row(), row(2.0, runtime=Runtime.LITERT, precision=Precision.INT8), row(None, runtime=Runtime.TORCH)]
    css = [(mark.get("class") or "").split()[-1] for mark in marks(draw_scatter(rows), "mark")]
    assert len(set(css)) == 2
    assert css[0] == (marks(draw_scatter(rows[:1]), "mark")[0].get("class") or "").split()[-1]
    assert re.findall(r"</svg>([^<]+)", draw_key(rows)) == ["onnxruntime", "litert", "fp32", "int8"]


def test_the_frontier_holds_what_nothing_beats() -> None:
    fast, middle, best = row(1.0, 0.8), row(2.0, 0.9), row(3.0, 0.95)
    beaten = [row(2.5, 0.9), row(1.5, 0.8), row(4.0, 0.95)]
    assert frontier([best, *beaten, fast, middle, row(0.1, None)]) == [fast, middle, best]


def test_many_rows_at_one_place_are_still_labelled_once_each() -> None:
    labels = [label.text for label in marks(draw_scatter([row() for _ in range(30)]), "label")]
    assert sorted(map(int, filter(None, labels))) == list(range(1, 31))


HISTORY = [
    {"epoch": 1, "train_loss": 2.0, "val_loss": 2.5, "train_top1": 0.3, "val_top1": 0.4, "lr": 0.1},
    {"epoch": 2, "train_loss": 1.0, "val_loss": 1.5, "train_top1": 0.6, "val_top1": 0.7, "lr": 0.1},
    {"epoch": 3, "train_loss": 0.5, "val_loss": 1.6, "train_top1": 0.9, "val_top1": 0.65, "lr": 0.1},
]


def test_loss_and_accuracy_have_a_plot_each_and_the_best_epoch_a_mark() -> None:
    loss, accuracy = draw_curves(Curves("run", HISTORY))
    assert len(marks(loss, "train")) == 2  # the curve and its swatch
    assert marks(loss, "best") == []
    (best,) = marks(accuracy, "best")
    assert [label.text for label in best.iter("text")] == ["best 70.00 %, epoch 2"]


def test_a_diverged_epoch_is_a_gap_and_a_lonely_epoch_a_dot() -> None:
    losses = ["2.0", "1.5", "nan", "1.0", "inf", "0.5", "0.4"]
    (plot,) = draw_curves(Curves("run", [{"train_loss": loss} for loss in losses]))
    curve = marks(plot, "train")[0]
    path = curve.find("path")
    assert path is not None
    assert (path.get("d") or "").count("M") == 3
    assert (path.get("d") or "").count("L") == 2
    assert len(list(curve.iter("circle"))) == 1


def test_one_epoch_and_no_epoch() -> None:
    assert len(draw_curves(Curves("run", HISTORY[:1]))) == 2
    assert draw_curves(Curves("run", [])) == []
    assert draw_curves(Curves("run", [{"val_loss": 0.0}])) != []


CATS = Confusion("c", ["cat", "dog", "<hen>"], [[6, 4, 0], [1, 9, 0], [0, 0, 0]])


def test_mistakes_are_ranked_by_their_share_of_the_true_class() -> None:
    assert [(m.truth, m.answer, m.count, m.share) for m in mistakes(CATS)] == [
        ("cat", "dog", 4, 0.4),
        ("dog", "cat", 1, 0.1),
    ]
    assert recalls(CATS) == [("cat", 0.6, 10), ("dog", 0.9, 10)]
    assert confusion_words(CATS)[:2] == ["15 of 20 pictures named right.", "cat called dog: 4 times, 40.00 % of cat."]


def test_the_matrix_shows_every_count_that_is_not_zero() -> None:
    drawn = draw_confusion(CATS)
    assert [cell.text for cell in marks(drawn, "count")] == ["6", "4", "1", "9"]
    assert len(marks(drawn, "right")) == 2
    largest = marks(drawn, "wrong")[0].find("rect")
    assert largest is not None
    assert float(largest.get("fill-opacity", "0")) == pytest.approx(0.9)


@pytest.mark.parametrize(
    ("classes", "numbered", "drawn"), [(24, True, True), (25, False, True), (120, False, True), (121, False, False)]
)
def test_many_classes_lose_numbers_then_the_drawing(classes: int, numbered: bool, drawn: bool) -> None:
    counts = [[int(row == column) for column in range(classes)] for row in range(classes)]
    markup = draw_confusion(Confusion("c", [f"class {index}" for index in range(classes)], counts))
    assert (markup is not None) is drawn
    assert (markup is not None and 'class="count' in markup) is numbered

"""What TensorFlow's two words for padding mean in numbers."""

from __future__ import annotations


def padding_word(
    size: tuple[int, ...],
    output: tuple[int, ...],
    kernel: list[int],
    stride: list[int],
    dilation: list[int],
    padding: list[int],
) -> str | None:
    """``VALID`` or ``SAME`` if that means exactly ``padding``, else ``None``. All are (height, width).

    TensorFlow's SAME: ``output = ceil(size / stride)``, and ``max((output - 1) * stride + reach - size, 0)`` zeros,
    the smaller half of them before. Zeros after that no window reaches do not count.
    """
    words = {"SAME", "VALID"}
    for axis in (0, 1):
        reach = (kernel[axis] - 1) * dilation[axis] + 1
        before = padding[axis]
        after = max((output[axis] - 1) * stride[axis] + reach - size[axis] - before, 0)
        if before or after:
            words.discard("VALID")
        total = max((output[axis] - 1) * stride[axis] + reach - size[axis], 0)
        if output[axis] != -(-size[axis] // stride[axis]) or before != total // 2 or after != total - total // 2:
            words.discard("SAME")
    return min(words, key=("VALID", "SAME").index, default=None)

"""One training step of a small ResNet in NumPy, float64, forwards and backwards, by the definitions.

Shares no arithmetic with the package: it takes the weights of a network and its structure, and is told padding and
groups.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np


def same_pads(length: int, size: int, stride: int) -> tuple[int, int]:
    """TensorFlow's SAME: as many outputs as strides begin, the odd pixel behind."""
    total = max(0, (-(-length // stride) - 1) * stride + size - length)
    return total // 2, total - total // 2


def convolution(x: np.ndarray, kernel: np.ndarray, stride: int, pads: tuple[int, int]) -> tuple[np.ndarray, Any]:
    """Convolve square images [B, S, S, C] with [k, k, C / groups, K]; back gives those of images and kernel."""
    padded = np.pad(x, [(0, 0), pads, pads, (0, 0)])
    size, _, inputs, outputs = kernel.shape
    groups = x.shape[3] // inputs
    side = (padded.shape[1] - size) // stride + 1
    y = np.zeros((len(x), side, side, outputs))

    def parts() -> Any:
        for group in range(groups):
            seen = slice(group * inputs, (group + 1) * inputs)
            made = slice(group * outputs // groups, (group + 1) * outputs // groups)
            for i in range(size):
                for j in range(size):
                    rows, columns = (slice(k, k + stride * (side - 1) + 1, stride) for k in (i, j))
                    yield (slice(None), rows, columns, seen), (i, j, slice(None), made), made

    for window, weights, made in parts():
        y[..., made] += padded[window] @ kernel[weights]

    def back(dy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        d_padded, d_kernel = np.zeros_like(padded), np.zeros_like(kernel)
        for window, weights, made in parts():
            d_padded[window] += dy[..., made] @ kernel[weights].T
            d_kernel[weights] = np.tensordot(padded[window], dy[..., made], ([0, 1, 2], [0, 1, 2]))
        inside = slice(pads[0], pads[0] + x.shape[1])
        return d_padded[:, inside, inside], d_kernel

    return y, back


def max_pool(x: np.ndarray) -> tuple[np.ndarray, Callable[..., Any]]:
    """3x3 with the stride 2, SAME."""
    pads = same_pads(x.shape[1], 3, 2)
    padded = np.pad(x, [(0, 0), pads, pads, (0, 0)], constant_values=-np.inf)
    side = (padded.shape[1] - 3) // 2 + 1
    windows = [(i, j) for i in range(3) for j in range(3)]
    stacked = np.stack([padded[:, i : i + 2 * side - 1 : 2, j : j + 2 * side - 1 : 2] for i, j in windows])
    largest = stacked.argmax(0)

    def back(dy: np.ndarray) -> np.ndarray:
        d_padded = np.zeros_like(padded)
        for index, (i, j) in enumerate(windows):
            d_padded[:, i : i + 2 * side - 1 : 2, j : j + 2 * side - 1 : 2] += dy * (largest == index)
        return d_padded[:, pads[0] : pads[0] + x.shape[1], pads[0] : pads[0] + x.shape[1]]

    return stacked.max(0), back


class Step:
    """The gradients of mean cross-entropy by variable, and the moving statistics after the step."""

    def __init__(self, network: Any, images: np.ndarray, targets: np.ndarray, same: bool) -> None:
        self.same = same
        self.gradients: dict[Any, np.ndarray] = {}
        self.statistics: dict[Any, np.ndarray] = {}
        backs: list[Callable[..., Any]] = []
        x, back = self._normalised(network.initial, images.astype(np.float64), relu=True)
        backs.append(back)
        x, back = max_pool(x)
        backs.append(back)
        for block in [block for layer in network.layers for block in layer]:
            x, back = self._bottleneck(block, x)
            backs.append(back)
        pooled = x.mean((1, 2))
        logits = pooled @ value(network.dense_kernel) + value(network.dense_bias)
        shares = np.exp(logits - logits.max(1, keepdims=True))
        shares /= shares.sum(1, keepdims=True)
        self.loss = -(targets * np.log(shares)).sum(1).mean()
        d_logits = (shares - targets) / len(images)
        self.gradients[network.dense_kernel.ref()] = pooled.T @ d_logits
        self.gradients[network.dense_bias.ref()] = d_logits.sum(0)
        d_pooled = d_logits @ value(network.dense_kernel).T
        gradient = np.broadcast_to(d_pooled[:, None, None], x.shape) / (x.shape[1] * x.shape[2])
        for back in reversed(backs):
            gradient = back(gradient)

    def _normalised(self, module: Any, x: np.ndarray, relu: bool) -> tuple[np.ndarray, Callable[..., Any]]:
        size, stride = module.size, module.stride
        fixed = ((size - 1) // 2, size // 2)
        pads = same_pads(x.shape[1], size, stride) if self.same or stride == 1 else fixed
        y, convolution_back = convolution(x, value(module.kernel), stride, pads)
        mean, variance = y.mean((0, 1, 2)), y.var((0, 1, 2))
        count = y.size // y.shape[3]
        for variable, batch in ((module.mean, mean), (module.variance, variance * count / (count - 1))):
            self.statistics[variable.ref()] = 0.9 * value(variable) + 0.1 * batch
        deviation = np.sqrt(variance + 1e-5)
        normal = (y - mean) / deviation
        gamma = value(module.gamma)
        z = gamma * normal + value(module.beta)
        kept = (z > 0) | (not relu)

        def back(dz: np.ndarray) -> np.ndarray:
            dz = dz * kept
            d_gamma, d_beta = (dz * normal).sum((0, 1, 2)), dz.sum((0, 1, 2))
            dy = gamma / deviation * (dz - d_beta / count - normal * d_gamma / count)
            dx, d_kernel = convolution_back(dy)
            for variable, gradient in ((module.gamma, d_gamma), (module.beta, d_beta), (module.kernel, d_kernel)):
                self.gradients[variable.ref()] = gradient
            return dx

        return z * kept, back

    def _bottleneck(self, block: Any, x: np.ndarray) -> tuple[np.ndarray, Callable[..., Any]]:
        shortcut, shortcut_back = (
            (x, lambda d: d) if block.shortcut is None else self._normalised(block.shortcut, x, False)
        )
        y, backs = x, []
        for module in (block.reduce, block.spatial, block.expand):
            y, back = self._normalised(module, y, relu=module is not block.expand)
            backs.append(back)
        z = np.maximum(y + shortcut, 0.0)

        def back(dz: np.ndarray) -> np.ndarray:
            dz = dz * (z > 0)
            gradient = dz
            for back in reversed(backs):
                gradient = back(gradient)
            return gradient + shortcut_back(dz)

        return z, back


def value(variable: Any) -> np.ndarray:
    return variable.numpy().astype(np.float64)

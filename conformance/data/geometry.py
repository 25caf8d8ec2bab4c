"""Where an evaluated image is cut out: plain arithmetic that holds for numbers and for tensors."""

from typing import Any, Callable, Tuple

RESIZED = 256  # the shorter side before the crop, in pixels
CROPPED = 224


def eval_geometry(height: Any, width: Any, minimum: Callable[[Any, Any], Any] = min) -> Tuple[Any, Any, Any, Any]:
    """Return the resized height and width and the top and left of the central crop, in pixels.

    The shorter side becomes 256 and the other int(256 * long / short), as the evaluation of
    IntelAI/models v1.6.1 has it. Integer division is that truncation exactly, because a
    quotient of such small integers never rounds up to the next one in float64.
    """
    shorter = minimum(height, width)
    resized_height, resized_width = RESIZED * height // shorter, RESIZED * width // shorter
    return resized_height, resized_width, (resized_height - CROPPED) // 2, (resized_width - CROPPED) // 2

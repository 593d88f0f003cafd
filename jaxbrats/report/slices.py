"""A validation case in one small picture, for those who watch a training: drawn in milliseconds, without matplotlib."""

import numpy as np

from jaxbrats.data.arrays import ArrayCase, channels_present, read_image, read_labels
from jaxbrats.data.labels import LABEL_NAMES
from jaxbrats.inference.validation import shown_slice
from jaxbrats.report.colours import COLOURS

_FILL_OPACITY = 0.4
_RGB = np.array([list(bytes.fromhex(COLOURS[name][1:])) for name in LABEL_NAMES], np.float32)


def draw_case(case: ArrayCase, predicted: np.ndarray) -> np.ndarray:
    """The slice of a case with the most tumour: the first modality it has alone, under the truth, under the prediction.

    Args:
        case: Read anew each time, so that nothing is kept between validations.
        predicted: Labels `(X, Y)` of `shown_slice`.

    Returns:
        uint8 `(Y, 3 X, 3)`: as radiologists look at it where the array lies as BraTS files do, else as it is stored.
    """
    labels = read_labels(case)
    place = shown_slice(labels)
    image = read_image(case)[:, :, place]
    return draw_slice(image[..., channels_present(image)[0]], [labels[:, :, place], predicted])


def draw_slice(image: np.ndarray, segmentations: list[np.ndarray]) -> np.ndarray:
    """An image `(X, Y)` alone and under each segmentation `(X, Y)`, side by side, `(Y, X (1 + N), 3)` uint8.

    Grey values run from the 1st to the 99th percentile of the pixels that are not zero. A label is a translucent fill
    with a solid edge, which is its own outermost pixels.
    """
    inside = image != 0
    low, high = np.percentile(image[inside], (1, 99)) if inside.any() else (0.0, 1.0)
    grey = np.where(inside, np.clip((image - low) / max(high - low, 1e-6), 0, 1) * 255, 0)
    panels = [np.repeat(grey[..., None], 3, axis=2)]
    for labels in segmentations:
        around = np.pad(labels, 1)
        shifted = (around[2:, 1:-1], around[:-2, 1:-1], around[1:-1, 2:], around[1:-1, :-2])
        edge = np.any([neighbour != labels for neighbour in shifted], axis=0)
        opacity = np.where(labels > 0, np.where(edge, 1, _FILL_OPACITY), 0)[..., None]
        panels.append((1 - opacity) * panels[0] + opacity * _RGB[labels])
    return np.rint(np.concatenate(panels)).astype(np.uint8).swapaxes(0, 1)

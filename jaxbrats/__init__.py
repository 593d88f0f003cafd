"""Brain tumour segmentation from multi-modal MRI with a 3-D U-Net in JAX.

    labels, affine = jaxbrats.segment("BraTS-GLI-00001-000")

For education and research. Not a medical device: never to be used for diagnosis or treatment.
"""

from typing import Any

__version__ = "0.2.0"
__all__ = ["evaluate", "preprocess", "segment"]


def __getattr__(name: str) -> Any:
    # Loaded when asked for: the package itself imports in no time.
    if name in __all__:
        from jaxbrats import api

        return getattr(api, name)
    raise AttributeError(f"module 'jaxbrats' has no attribute {name!r}")

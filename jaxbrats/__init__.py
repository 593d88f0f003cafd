"""Brain tumour segmentation from multi-modal MRI with a 3-D U-Net in JAX.

For education and research. Not a medical device: never to be used for diagnosis or treatment.
"""

__version__ = "0.1.0"

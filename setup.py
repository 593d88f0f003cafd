"""Packaging of jaxbrats: `pip install .`, with extras for what only some users need."""

import pathlib
import re

from setuptools import find_packages, setup

HERE = pathlib.Path(__file__).parent
VERSION = re.search(r'^__version__ = "(.+)"$', (HERE / "jaxbrats/__init__.py").read_text(), re.M)[1]

setup(
    name="jaxbrats",
    version=VERSION,
    description="Brain tumour segmentation from multi-modal MRI (BraTS) with a 3-D U-Net in JAX",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=find_packages(include=["jaxbrats", "jaxbrats.*"]),
    package_data={
        "jaxbrats": ["weights/*"],
        "jaxbrats.system.gpus": ["*.txtpb"],
        "jaxbrats.report.pages": ["assets/*", "templates/*"],
        "jaxbrats.model.native": ["*.cc", "*.h"],
    },
    python_requires=">=3.11",
    install_requires=[
        "absl-py>=2.1",
        "connected-components-3d>=4.0",
        "flax>=0.12",
        "grain>=0.2.16",
        "isal>=1.7",
        "jax>=0.10",
        "jinja2>=3.1",
        "markupsafe>=2.1",
        "matplotlib>=3.9",
        "ml-collections>=1.0",
        "nibabel>=5.3",
        "numpy>=2.0",
        "optax>=0.2.5",
        "orbax-checkpoint>=0.11.30",
        "pillow>=10",
        "scipy>=1.15",
        "tqdm>=4.66",
    ],
    extras_require={
        "bench": ["monai>=1.4", "nnunetv2>=2.8", "torch>=2.6"],
        "cuda": ["jax[cuda13]>=0.10"],
        "export": ["onnx>=1.17", "onnxruntime>=1.20"],
        "docs": [
            "ipykernel>=6.29",
            "mkdocs>=1.6,<2",
            "mkdocs-material>=9.6",
            "mkdocstrings[python]>=0.29",
            "nbclient>=0.10",
            "nbconvert>=7.16",
        ],
        "mlflow": ["mlflow>=3.0"],
        "tensorboard": ["tensorboardX>=2.6"],
        "test": [
            "hypothesis>=6.100",
            "onnx>=1.17",
            "onnxruntime>=1.20",
            "pytest>=8.0",
            "pytest-xdist>=3.6",
            "ruff>=0.9",
            "surface-distance>=0.1",
            "tensorboardX>=2.6",
        ],
        "wandb": ["wandb>=0.19"],
    },
    entry_points={"console_scripts": ["jaxbrats=jaxbrats.__main__:main"]},
    classifiers=[
        "License :: OSI Approved :: Apache Software License",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Medical Science Apps.",
    ],
)

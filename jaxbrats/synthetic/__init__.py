"""Phantoms: synthetic glioma patients as BraTS 2023 files."""

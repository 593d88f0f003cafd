"""Proposing a config for a cohort and a device's memory: what is measured, the network's shape, the largest that fits.

After nnU-Net's experiment planning (Isensee et al. 2021, doi:10.1038/s41592-020-01008-z), with XLA's account of the
compiled training step in the place of its estimate of the memory.
"""

"""From files on disk to batches: finding cases, NIfTI, checks, preprocessing, splits, the loader."""

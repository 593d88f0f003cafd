"""From files on disk to batches: finding cases, NIfTI, preprocessing, splits, the loader, a synthetic cohort."""

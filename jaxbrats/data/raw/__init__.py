"""Cohorts of NIfTI files as they come: which files belong to a case, their voxels, their geometry."""

"""From a checkpoint and a patient's files to a segmentation."""

"""How good a segmentation is: metrics, score tables, statistics."""

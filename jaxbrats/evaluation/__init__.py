"""How good a segmentation is: metrics, score tables and figures."""

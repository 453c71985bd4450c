"""Segmentation: networks that label every point, their training and their measures."""

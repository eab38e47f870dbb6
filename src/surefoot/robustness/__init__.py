"""Classifiers under noise: randomized smoothing and the inversion of backdoors."""

"""Formats and samples, and the problems that one table is."""

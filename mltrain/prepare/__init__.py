"""Preparing a data set: download, unpack, verify, shrink. Used by mltrain prepare_data."""

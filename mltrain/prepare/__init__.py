"""Preparing a data set: download, unpack, verify, shrink. Used by tools/prepare_data.py."""

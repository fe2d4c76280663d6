"""Getting a data set ready: download, unpack, verify, shrink. Used by tools/prepare_data.py."""

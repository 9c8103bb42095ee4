"""Datasets and policies in other places: uploaded, read back, and only then pointed to.

::

    <store>/<name>/latest.json                          which version is the newest: the pointer, moved last
    <store>/<name>/versions/<version>/...               the files, as they are on disk
    <store>/<name>/versions/<version>/vla_ops_manifest.json   what each of them must be, and what all of it was made of
"""

"""What was published, as anybody finds it: by its URI, with a manifest of what it must be and was made of.

::

    <store>/<name>/latest.json                          which version is the newest: the pointer, moved last
    <store>/<name>/versions/<version>/...               the files, as they are on disk
    <store>/<name>/versions/<version>/vla_ops_manifest.json   what each of them must be, and what all of it was made of

manifest.py    a version of a publication: its files and its origin
pull.py        brought here, and compared with its manifest
registry.py    what is published below a place, and what has changed since
hub_address.py hub_reader.py hub_errors.py    the same on the Hugging Face Hub, where a publication is a repository
"""

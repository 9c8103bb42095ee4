"""What lies at a URL, brought here: listed, fetched by range, verified, cached.

remote.py     files at a URL, as whoever may read them
download.py   folders, such as checkpoints: fetched once, verified, cached
fetched.py    single files, such as tokenizers, likewise
checksum.py   CRC32C of a file
"""

"""Datasets and policies taken to other places: uploaded, read back, and only then pointed to (`published/` says where what is there)."""

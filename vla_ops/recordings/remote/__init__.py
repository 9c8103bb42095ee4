"""Recordings in remote stores (S3, Google, HTTP, Hugging Face: all that fsspec opens), of which only what is read is fetched."""

"""Publications on the Hugging Face Hub: a repository each, a tag for every version, and `main` for the newest."""

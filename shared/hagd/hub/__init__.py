"""Repositories of the Hugging Face hub: names, listings, checked downloads into folders, uploads as one commit.

The library `huggingface_hub` does the talking: it takes the endpoint from HF_ENDPOINT, the token from HF_TOKEN or from
the file that HF_TOKEN_PATH names, and keeps what it fetched in its own cache. Nothing here sees the token.
"""

"""The build step: export a SentenceTransformer, quantize it, certify it, write the artifact."""

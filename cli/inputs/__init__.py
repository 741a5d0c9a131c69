"""What `embakery enqueue` reads: JSON lines, CSV, Parquet, OpenAI Batch files, folders of text files; row by row."""

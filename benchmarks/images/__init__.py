"""The peers' images: one way to build them, and for each the function as people write it."""

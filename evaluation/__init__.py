"""Judging an artifact: metrics, retrieval on anyone's data, comparisons, and the pages that show them."""

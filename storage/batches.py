from embakery.batches import batches as batches

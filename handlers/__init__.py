"""One file for each Lambda function. Handlers translate; they never decide."""

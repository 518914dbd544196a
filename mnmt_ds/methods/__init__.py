"""The methods, one a file, each a few functions over batches."""

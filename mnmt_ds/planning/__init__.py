"""What a recipe will need before it runs: parameters, memory a rank, data, time."""

"""What is measured while a student trains: losses, dev scores, memory, FLOPs, progress."""

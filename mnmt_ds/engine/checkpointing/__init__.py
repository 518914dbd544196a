"""What a run leaves on disk: checkpoints, snapshots, best models and records."""

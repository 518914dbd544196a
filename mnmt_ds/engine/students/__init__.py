"""Students, and what several of them give each other: placement over ranks, peer states, weight search."""

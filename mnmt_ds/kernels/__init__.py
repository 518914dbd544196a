"""The fused cross-entropy with teacher: one signature, several implementations."""

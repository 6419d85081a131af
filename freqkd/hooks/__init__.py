"""MMEngine hooks: prompt files, mask pictures, guards."""

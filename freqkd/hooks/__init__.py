"""MMEngine hooks: checkpoints, steps that are not finite, prompt files, mask pictures, progress."""

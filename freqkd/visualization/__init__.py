"""Pictures of masks, predictions and curves."""

"""Where losses, taps and networks meet: the distiller, the prompt tuner, and what they are made of."""

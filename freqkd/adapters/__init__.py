"""Between taps and losses: find the logits of a head and the labels that go with them, without welding into head classes."""

"""FreeKD: its loss, the wavelet transforms, the frequency prompts and the channel relation."""

"""Commands of the command line, one module each: `freqkd COMMAND`, `python -m freqkd COMMAND`, and the scripts in tools/."""

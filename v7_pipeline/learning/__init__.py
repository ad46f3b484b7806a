"""What outcomes teach: win rates, what each theory was worth, and how sure one may be.

Frames in, frames out; no clock, no store, no decision about a trade belongs here.
"""

"""Chatterbox text-to-speech, made fast. Knows nothing of Ray or HTTP."""

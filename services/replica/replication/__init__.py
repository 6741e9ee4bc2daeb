"""The write path, take-over and delta sync: pure cores that see ranges and tokens, never a payload.

`Primary` orders and confirms writes and brings peers up to date; `Replica` follows one primary; `FrontendCore`
finds the primary and re-sends what was not answered. Neither knows the brain: the driver turns an effect of one
into an event of the other.
"""

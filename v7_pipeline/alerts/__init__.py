"""What a person is told: the outbox's rows, made from a scan's events, and their delivery.

Deciding what happened belongs elsewhere; here it is only put into words and sent.
"""

"""The HTTP pages and the JSON that people and scripts read; nothing here writes.

Whoever looks is a guest: reads are short, and a busy store is said to be busy.
"""

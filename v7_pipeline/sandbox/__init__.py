"""A local stand-in for Coinbase and DeepSeek: their wire formats, simulated or replayed prices, faults on request.

Everything it serves is demo data. Nothing outside the tests, the drills and demo mode may depend on it.
"""

"""Who turns readings into a decision: the prompt and its reply, the DeepSeek client, the rules, prices and the ledger.

What lets a decision become a signal is not here (gates/), nor is what becomes of it (trades/, learning/).
"""

"""Named ways to a decision beside v7's theories and analyst: the technical baseline v6, and the ensemble of both.

Only from frames to frames; where candles, labels and limits come from is the scan's and the backtest's business.
"""

"""Market: candles as data — the Coinbase client, what a candle must satisfy, and the dense minute grid.

What candles mean is theories' business; where they are kept is the store's. Import the modules: the client needs
requests, the grid and the rules do not.
"""

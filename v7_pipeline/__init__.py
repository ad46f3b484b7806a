"""V7: Coinbase candles → ten theories → an analyst → gates → outcomes → attribution, as a Dagster pipeline."""

__version__ = "0.1.0"

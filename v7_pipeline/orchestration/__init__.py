"""Everything that knows Dagster: assets, checks, jobs, schedule, sensors, the IO manager and the runs we start.

What a scan does belongs in scan/ and below; here it is only placed in the graph and told about.
"""

"""The bench: qproxy beside other proxies, in one run, on the same cores, judged by ratios. See `bench/README.md`."""

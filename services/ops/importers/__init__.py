"""Readers of foreign comment files, and the order in which their comments enter the log.

A file becomes a stream of records (`wxr` with `html`, or `jsonl`), these go to a spool on disk
(`plan.Spool`), and each thread leaves the spool with parents before children. Nothing here writes to the log.
"""

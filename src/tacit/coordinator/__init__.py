"""The coordinator: collects Updates, closes batches, has them opened, applies the sum, publishes Snapshots.

It never sees one Update in the clear. Nothing private rests on its checks; they keep the sums whole.
"""

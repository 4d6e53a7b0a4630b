"""What merge's child processes stand on: no Prefect, no MLflow.

`checkpoint` reads and writes tensors on the disk, `sources` are what a merged model is made of,
`writing` makes it, `comparison` says how near it is to what was trained.
"""

# Of a process that writes a merged model. Left alone, glibc keeps what matrices of up to 32 MiB
# leave behind: up to one more shard, in pieces that the next one does not fit into.
ENVIRONMENT = {"MALLOC_MMAP_THRESHOLD_": str(2**20)}

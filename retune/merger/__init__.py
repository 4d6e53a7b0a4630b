"""What merge's child processes stand on: no Prefect, no MLflow.

`checkpoint` reads and writes tensors on the disk, `sources` are what a merged model is made of,
`writing` makes it, `comparison` says how near it is to what was trained.
"""

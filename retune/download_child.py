"""The confined child of `retune.downloads`: copies what is at an address, or asks for it."""

from retune.child import Event
from retune.confined import confined
from retune.downloads import DownloadJob


def work(job: DownloadJob) -> Event:
    if job.address.startswith(("https://", "http://")):
        from retune.web import copy
    else:
        from retune.stores import copy
    return copy(job.address, job.folder, job.limit, job.former)


if __name__ == "__main__":
    confined(DownloadJob, work)

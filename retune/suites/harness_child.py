"""The child process that reads how lm-eval's tasks are described; it runs nothing of theirs."""

from retune.child import Event, main
from retune.suites.harness import DescribeJob
from retune.suites.harness_tasks import TaskRefused, described_suite


def work(job: DescribeJob) -> Event:
    """Return what each of the tasks is. Raises TaskRefused, which names the setting."""
    tasks = []
    for number, task in enumerate(job.tasks):
        try:
            tasks.append(described_suite(task))
        except TaskRefused as refusal:
            raise TaskRefused(f"evaluation.tasks.{number}: {refusal}") from None
    return {"tasks": tasks}


if __name__ == "__main__":
    main(DescribeJob, work)

"""A folder of tasks for lm-eval, about the colours that tests train on, and lm-eval itself."""

import json
import sys
from pathlib import Path

import pytest

from tests.infra.stack import use_extra
from tests.tasks.conftest import COLOURS

CHOICE = """\
task: colours_choice
dataset_path: json
dataset_kwargs:
  data_files: {test: choice.jsonl}
output_type: multiple_choice
test_split: test
fewshot_split: test
doc_to_text: "{{question}}"
doc_to_target: "{{answer}}"
doc_to_choice: "{{choices}}"
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: acc_norm, aggregation: mean, higher_is_better: true}
  - {metric: brier_score, aggregation: brier_score, higher_is_better: false}
metadata: {version: 2.0}
"""
SAID = """\
task: colours_said
dataset_path: json
dataset_kwargs:
  data_files: {test: said.jsonl}
output_type: generate_until
test_split: test
process_docs: !function words.lower
doc_to_text: "{{question}}"
doc_to_target: "{{answer}}"
generation_kwargs: {until: ["\\n"], do_sample: false, max_gen_toks: 6}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true, ignore_case: true}
  - {metric: bleu, aggregation: bleu, higher_is_better: true}
filter_list:
  - name: strict
    filter: [{function: take_first}]
  - name: first-word
    filter: [{function: regex, regex_pattern: "(\\\\w+)"}, {function: take_first}]
"""
GROUP = """\
group: colours
task: [colours_choice, {task: colours_said, metadata: {version: 7}}]
"""
WORDS = """\
def lower(docs):
    return docs.map(lambda doc: {"question": doc["question"].lower()})
"""


def write_tasks(folder: Path) -> Path:
    """Write two tasks, a group of both, and their data; return the folder."""
    folder.mkdir(parents=True)
    files = {"choice.yaml": CHOICE, "said.yaml": SAID, "group.yaml": GROUP, "words.py": WORDS}
    for name, text in files.items():
        (folder / name).write_text(text)
    choice, said = [], []
    for number, colour in enumerate(COLOURS):
        right, wrong = COLOURS[(number + 3) % 8], COLOURS[(number + 1) % 8]
        choices = [wrong, right, "grey"]
        choice.append({"question": f"after {colour}", "choices": choices, "answer": 1})
        said.append({"question": f"SAY {colour}", "answer": colour})
    (folder / "choice.jsonl").write_text("\n".join(map(json.dumps, choice)))
    (folder / "said.jsonl").write_text("\n".join(map(json.dumps, said)))
    return folder


def use_lm_eval(patch: pytest.MonkeyPatch) -> None:
    """Let this process and its children find lm-eval."""
    use_extra("lm-eval", "lm_eval", patch)
    assert "lm_eval" not in sys.modules, "it is for children alone"

"""What both training backends share, for their child processes: no Prefect, no MLflow.

`loop.run` trains; a backend (Unsloth, or PEFT and TRL) only loads the model for it.
"""

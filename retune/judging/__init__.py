"""A model as the judge of answers: what it is asked, how its word is counted, who agrees with it.

MLflow's judges (`mlflow.genai.make_judge`, `Guidelines`, as of 3.17) do not fit here. Keys come only
from the providers' own environment variables, and other providers need litellm; retries are fixed and
every call becomes a trace; a request has no limit of size and no way to go on where the last attempt
was killed; an answer is put into the prompt without a fence; and there is no comparison of two answers
in both orders. What a judge says reaches MLflow as measures and a table instead.
"""

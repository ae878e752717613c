from importlib.util import find_spec


# The suites import transformers' tests, which `run.py` puts in place.
collect_ignore = [] if find_spec("transformers_tests") else ["suites"]

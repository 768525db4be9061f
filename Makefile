.PHONY: check test docs

check:
	ruff check .
	ruff format --check .
	mypy

test:
	python -m pytest

docs:	# needs the extra "docs"; any warning is an error
	sphinx-build -W --keep-going -b html docs docs/_build/html

.PHONY: check test

check:
	ruff check .
	ruff format --check .
	mypy

test:
	python -m pytest

"""The default model in each peer's own format.

    PYTHON -m benchmarks.conversions.NAME SOURCE OUT [ARGUMENT]

Each module runs in the environment that models.py names. SOURCE is the folder of the model before, OUT an empty folder.
Nothing is fetched: the weights come from the default model's package.
"""

"""The five tasks of a nightly MNIST training job, as plain functions: load, normalize, train, evaluate, promote.

Nothing below this package imports Airflow; the DAG in ``dags/mnist_training.py`` only wires these functions together.
"""

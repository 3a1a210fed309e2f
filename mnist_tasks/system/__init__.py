"""What the tasks need of the machine: atomic files, disk space, TensorFlow's set-up, the task log, errors."""

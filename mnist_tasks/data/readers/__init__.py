"""One reader for each form that digits come in; `mnist_tasks.data.sources` chooses among them."""

"""Event files that TensorBoard shows, with the names that Keras' own callback uses."""

from __future__ import annotations

import shutil
from pathlib import Path

from mnist_tasks.documents import Epoch
from mnist_tasks.system.disk_space import explained_disk_errors


class EventFiles:
    """The folders `train` and, with a validation split, `validation`: a scalar for each metric, a step an epoch.

    Written with TensorFlow's core operations, as `tf.summary.scalar` needs TensorBoard to be installed.
    """

    def __init__(self, folder: Path, epochs: list[Epoch]) -> None:
        """Event files in `folder`, which is emptied unless `epochs` of an earlier try are in it."""
        if not epochs:
            shutil.rmtree(folder, ignore_errors=True)
        self.folder = folder

    def write(self, epoch: Epoch, learning_rate: float) -> None:
        """Add an epoch; it is in the files when this returns."""
        train = {"learning_rate": learning_rate, "images_per_second": epoch.images_per_second}
        validation = {}
        for name, value in epoch.metrics.items():
            if name.startswith("val_"):
                validation[name.removeprefix("val_")] = value
            else:
                train[name] = value
        self._write("train", epoch, train)
        if validation:
            self._write("validation", epoch, validation)

    def _write(self, name: str, epoch: Epoch, values: dict[str, float]) -> None:
        import tensorflow as tf

        scalars = tf.compat.v1.SummaryMetadata(
            plugin_data=tf.compat.v1.SummaryMetadata.PluginData(plugin_name="scalars"),
            data_class=1,  # DATA_CLASS_SCALAR
        )
        with explained_disk_errors(self.folder):  # TensorFlow's own error would pass for a device without memory
            writer = tf.summary.create_file_writer(str(self.folder / name))
            with writer.as_default():
                for tag, value in values.items():
                    tf.summary.write(f"epoch_{tag}", tf.constant(value, tf.float32), epoch.number - 1, scalars)
            writer.close()

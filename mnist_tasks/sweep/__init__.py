"""A search for better training parameters: many trainings, measured on validation images only, by Optuna's rules.

    sweeps/<run>/sweep.json            what is searched, and on what
                 journal.log           Optuna's study; each worker appends to it under a lock
                 trials/<n>/           one training: trial.json, and its checkpoint while it runs
                 result.json           what has won

Nothing here reads a test image or writes to the model directory: what wins is trained again by mnist_training, and its
gate decides.
"""

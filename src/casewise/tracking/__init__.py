"""What others follow of a run: its training as a CSV table, and the trackers that its study names.

Trackers may be servers that many people read. They get settings, losses and metrics by the names of learners, folds and
targets, and no name of a subject, case or file, and no image.
"""

"""A token for all clusters of a process: Ray reads it once, when the first test imports it."""

import os
import secrets

# as a user would do for a cluster: without a token, others on the network could start programs
os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))

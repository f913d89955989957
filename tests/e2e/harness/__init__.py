"""What the tests use to drive the cluster and to see what happened. Shares no code with the operator."""

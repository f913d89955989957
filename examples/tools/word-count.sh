#!/bin/sh
# A tool as a program: executor tool serve word-count --namespace texts --exec -- ./word-count.sh
# The input is on standard input, as JSON. What is printed is the output: one JSON object.
set -eu
input=$(cat)
case $input in
  *'"text"'*) ;;
  *)
    # An error of its own: a code for programs, a message for people, and any exit code but 0.
    echo '{"error": {"code": "NO_TEXT", "message": "the input has no text"}}'
    exit 1
    ;;
esac
# What goes to standard error is in the log of the executor.
echo "counting for $COMPOZY_WORKFLOW, task $COMPOZY_TASK" >&2
words=$(printf '%s' "$input" | sed -E 's/.*"text":"([^"]*)".*/\1/' | wc -w)
echo "{\"words\": $words}"

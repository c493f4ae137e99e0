#!/bin/sh
# A stand-in for a server: runs the argument after `-k BACKEND -b ADDRESS` as a script.
eval "$5"

#!/bin/sh
# In place of a server: runs what it is told by the argument behind `-k BACKEND -b ADDRESS`.
eval "$5"

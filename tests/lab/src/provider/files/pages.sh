#!/bin/sh
# The pages that the web system serves, made before it is started: a resource of the kind `exec`.
# Start and stop may come twice; status ends with 3 if they are not there (as LSB init scripts do).
set -e
dir=/run/pages
case "$1" in
start)
    mkdir -p $dir.new
    hostname >$dir.new/index.html
    chmod -R a+rX $dir.new
    rm -rf $dir
    mv $dir.new $dir
    ;;
stop) rm -rf $dir ;;
status) [ -s $dir/index.html ] || exit 3 ;;
*) exit 2 ;;
esac

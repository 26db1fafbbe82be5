#!/bin/sh
# Stands where the CLI would, and only emits: each prompt is answered with the lines of a
# file in its working folder, as fast as the pipe takes them.
[ "$1" = --version ] && echo '0.0.0 (emitter)' && exit
while IFS= read -r line; do
    case $line in
        *'"subtype":"initialize"'*)
            id=${line#*'"request_id":"'}
            printf '{"type":"control_response","response":{"subtype":"success","request_id":"%s"}}\n' \
                "${id%%'"'*}"
            ;;
        *'"type":"user"'*) cat lines.jsonl ;;
    esac
done

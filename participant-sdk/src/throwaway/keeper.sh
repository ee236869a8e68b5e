# Keeps a temporary directory and one server in it, on behalf of the process that writes its orders.
#
# However that process ends, the orders end then too, and with them go the server and the directory: nobody has to
# live long enough to clean up. It answers each order with a line, the first of all being the directory.

# Its owner may have ended when it answers.
trap '' PIPE
directory=$(mktemp -d -t assent-throwaway-XXXXXX 2>/dev/null || mktemp -d /tmp/assent-throwaway-XXXXXX) || exit
exec 2>>"$directory/log"
# The user that the server runs as may not have access to the owner's.
export TMPDIR="$directory"
server=
looks=0
# How often it looks, every 10 ms, whether what it killed is gone.
looks_max=3000

# Runs a command to its end; answers with its exit code.
run() {
    "$@" </dev/null >>"$directory/log"
    echo "$?"
}

# Starts the server; answers with its process id, which nobody else gets before `crash` has waited for it.
start() {
    "$@" </dev/null >>"$directory/log" &
    server=$!
    echo "$server"
}

# Kills the server and its children as a crash would, and answers when they are gone.
crash() {
    looks=0
    end_processes
    # shellcheck disable=SC2086 # An answer has one line, and these have several.
    if [ "$looks" -lt "$looks_max" ]; then echo gone; else echo some of these processes do not end: $children; fi
}

end_processes() {
    [ -n "$server" ] || return 0
    # A stopped process starts no more children, and a child of PostgreSQL has a process group of its own.
    kill -STOP "$server"
    children=$(grep -ls "^PPid:[[:space:]]*$server\$" /proc/[0-9]*/status | cut -d / -f 3)
    # shellcheck disable=SC2086 # Each is a word.
    kill -KILL "$server" $children
    wait "$server"
    server=
    for child in $children; do
        # A zombie is gone, though nobody may ever wait for it.
        while grep -qs '^State:[[:space:]]*[^XZ[:space:]]' "/proc/$child/status" && [ "$looks" -lt "$looks_max" ]; do
            looks=$((looks + 1))
            sleep 0.01
        done
    done
} 2>/dev/null

# PostgreSQL's segment of System V shared memory would outlive it: its id is on the seventh line.
remove_shared_memory() {
    segment=$(sed -n '7s/.* //p' "$directory/data/postmaster.pid")
    [ -z "$segment" ] || ipcrm -m "$segment"
} 2>/dev/null

trap 'end_processes; remove_shared_memory; rm -rf "$directory"' EXIT

echo "$directory"
while read -r order; do eval "$order"; done

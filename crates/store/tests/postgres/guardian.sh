# Looks after one server: does what its standard input says, a word a line, and answers each with a line. When that input ends, so does
# the server, and its data go: the test has ended or was killed.
# Arguments: directory of the programs, directory to make, port, settings (NAME=VALUE ...).
bin=$1 dir=$2 port=$3
shift 3
pid=
# A Ctrl-C is for everybody; the end of the input still comes.
trap : INT TERM HUP

# PostgreSQL refuses to run as root.
as=
if [ "$(id -u)" = 0 ]; then
  as="setpriv --reuid=postgres --regid=postgres --init-groups"
  id postgres >/dev/null 2>&1 || { echo "there is no user postgres: as root, the tests run the server as that user"; exit 1; }
fi
# If this shell is killed too, the server follows.
with=
if command -v setpriv >/dev/null; then with="setpriv --pdeathsig QUIT"; fi

init() {
  mkdir -m 755 "$dir" && mkdir -m 700 "$dir/data" || return 1
  [ -z "$as" ] || chown postgres "$dir/data" || return 1
  $as "$bin/initdb" -D "$dir/data" -U postgres -A trust -E UTF8 --locale=C --no-sync >"$dir/log" 2>&1
}

start() {
  [ -z "$as" ] || chown -R postgres "$dir/data" || return 1
  settings=
  for setting in "$@"; do settings="$settings -c $setting"; done
  # No socket in the file system, and memory that goes with the data.
  $as $with "$bin/postgres" -D "$dir/data" -c listen_addresses=127.0.0.1 -c port="$port" -c unix_socket_directories= \
    -c dynamic_shared_memory_type=mmap -c max_connections=200 -c log_min_messages=warning $settings \
    </dev/null >>"$dir/log" 2>&1 &
  pid=$!
  # The file says in its eighth line whether connections are taken.
  tries=0
  until [ "$(sed -n '1p;8p' "$dir/data/postmaster.pid" 2>/dev/null | tr -d ' \n')" = "${pid}ready" ]; do
    kill -0 "$pid" 2>/dev/null || return 1
    tries=$((tries + 1))
    [ $tries -lt 600 ] || return 1
    sleep 0.05
  done
}

end() {
  [ -n "$pid" ] || return 0
  kill "-$1" "$pid" 2>/dev/null
  wait "$pid" 2>/dev/null
  pid=
}

answer() {
  if [ "$1" = 0 ]; then echo ok; else tail -n 5 "$dir/log" 2>/dev/null | tr '\n' ' '; echo; fi
}

while read -r word; do
  case $word in
    init) init; answer $? ;;
    start) start "$@"; answer $? ;;
    stop) end INT; answer 0 ;;
    crash) end QUIT; answer 0 ;;
  esac
done
end QUIT
rm -rf "$dir"

# shellcheck shell=dash
# A load that verifies, typed into a tiny guest: /load DISK CHECK FIRST NEXT [stop]
# Takes the place of one that runs. First reads blocks FIRST to NEXT - 1 of DISK, which are to be there,
# and says in a line that begins with "checked CHECK:" whether they are. Then writes on from NEXT for
# ever, one block after the other, and says "flushed N N" when a block is on the disk.
disk=$1 check=$2 first=$3 next=$4
# No Ctrl-C: shells of this guest, and what they run, do not hear it.
kill "$(cat /run/load)" 2>/dev/null
echo $$ >/run/load
# 32 blocks of 4 KiB lie together, the next 32 lie 512 MiB further on, 64 times; then it goes on beside
# the first. So every 16 blocks need a new cluster, and many of those a new table of clusters.
place() { echo $(($1 % 64 * 4096 + $1 / 64)); }
echo 3 >/proc/sys/vm/drop_caches
chunk=$((first / 32))
while [ $((chunk * 32)) -lt "$next" ]; do
    dd if="$disk" bs=128k count=1 skip="$(place $chunk)" 2>/dev/null
    chunk=$((chunk + 1))
done | awk -v "check=$check" -v "n=$((first / 32 * 32))" -v "end=$next" '
n >= 0 + end { exit }
part == 0 { wanted = sprintf("%0511d", n) }
$0 "" != wanted "" { lost = "block " n ", part " part ": " substr($0, 1, 20) "..." substr($0, 490); exit }
++part == 8 { part = 0; n++ }
END {
    if (lost == "" && n < 0 + end) lost = "no block " n
    print "checked " check ": " (lost == "" ? "all there up to " end : "lost " lost)
}'
[ "$5" != stop ] || exit
# Beside it data that nobody flushes and that goes again, so that something is always being changed.
place_noise() { echo $((8192 + $1 % 16 * 128 + $1 / 16 % 64)); }
while [ -d /proc/$$ ]; do
    noise=$((noise + 1))
    dd if=/bin/busybox of="$disk" bs=256k count=1 seek=$(($(place_noise $noise) * 16)) oflag=direct 2>/dev/null
    [ $noise -le 8 ] ||
        blkdiscard -o $(($(place_noise $((noise - 8))) * 4194304)) -l 262144 "$disk" 2>/dev/null
    usleep 200000
done &
while :; do
    printf '%0511d\n' "$next" "$next" "$next" "$next" "$next" "$next" "$next" "$next" |
        dd of="$disk" bs=4k seek=$(($(place $((next / 32))) * 32 + next % 32)) conv=fsync 2>/dev/null ||
        break
    # Twice, as what is typed is shown in between.
    echo "flushed $next $next"
    next=$((next + 1))
done
echo "failed $next"

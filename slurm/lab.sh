#!/usr/bin/env bash
# Start a real Slurm with a few virtual nodes on one machine, to try `submit` and for the tests.
# It needs no systemd and no root, and keeps all its files in DIR.
#
#   slurm/lab.sh install          install the packages with apt (Debian, Ubuntu; as root)
#   slurm/lab.sh start DIR        then: . DIR/env.sh, and `python -m benchmark submit TABLE --cluster lab`
#   slurm/lab.sh stop DIR
#
# Variables and their defaults: LAB_NODES=2, LAB_GPUS=4 (simulated GPUs of a node), LAB_DB=1 (0: no accounting),
# LAB_MAX_ARRAY=10001, LAB_PORT=17000 (first of 10 + LAB_NODES ports), LAB_AUTH=munge (none: without munged).
# Partitions: gpu (default, high priority) and spare (its jobs are preempted by those of gpu).
set -Eeuo pipefail
export PATH=$PATH:/usr/sbin:/sbin

usage() { sed -n '2,12s/^# \{0,1\}//p' "$0"; exit 2; }
fail() { echo "lab.sh: $*" >&2; exit 1; }

packages="slurm-wlm munge"
[ "${LAB_DB:-1}" = 1 ] && packages="$packages slurmdbd slurm-wlm-mysql-plugin mariadb-server"
if [ "${1:-}" = install ]; then
    apt-get update -q
    DEBIAN_FRONTEND=noninteractive exec apt-get install -q -y --no-install-recommends $packages
fi
[ $# -ge 2 ] || usage
action=$1 dir=$(realpath -m "$2")
nodes=${LAB_NODES:-2} gpus=${LAB_GPUS:-4} db=${LAB_DB:-1} port=${LAB_PORT:-17000}
auth=${LAB_AUTH:-munge} user=$(id -un)

wait_for() { # wait_for SECONDS COMMAND...: repeat the command until it succeeds
    local limit=$((SECONDS + $1)) && shift
    while ! timeout 5 "$@" >/dev/null 2>&1; do
        if [ $SECONDS -ge $limit ]; then
            tail -n 5 "$dir"/log/* >&2 || true
            fail "timed out: $*"
        fi
        sleep 0.1
    done
}

end() { # end PIDFILE: terminate the process, wait, then kill it. A zombie counts as ended.
    local pid state
    pid=$(cat "$1" 2>/dev/null) && kill "$pid" 2>/dev/null || return 0
    for _ in $(seq 100); do
        state=$(ps -o stat= -p "$pid" || true)
        case $state in '' | Z*) return 0 ;; esac
        sleep 0.1
    done
    kill -9 "$pid" 2>/dev/null || true
}

stop_all() { # nodes first, because they end the processes of their jobs
    if [ -f "$dir/env.sh" ]; then
        . "$dir/env.sh"
        timeout 10 scancel --user="$user" >/dev/null 2>&1 || true
        sleep 0.5
    fi
    for file in "$dir"/run/slurmd-*.pid "$dir"/run/{slurmctld,slurmdbd,mariadb,munged}.pid; do
        end "$file"
    done
}

write_config() {
    # the files of the controller and of the accounting daemon name the munge socket in different ways
    local credentials="AuthType=auth/none
CredType=cred/none
AuthInfo=cred_expire=5" dbd_credentials="AuthType=auth/none"
    local accounting="AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none"
    if [ "$auth" = munge ]; then
        credentials="AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket=$dir/sock/munge,cred_expire=5"
        dbd_credentials="AuthType=auth/munge
AuthInfo=socket=$dir/sock/munge"
    fi
    if [ "$db" = 1 ]; then
        accounting="AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=localhost
AccountingStoragePort=$((port + 1))
JobAcctGatherType=jobacct_gather/linux"
        [ "$auth" = munge ] && accounting+="
AccountingStoragePass=$dir/sock/munge"
        (umask 077; cat > "$dir/slurmdbd.conf" <<EOF
$dbd_credentials
DbdHost=localhost
DbdPort=$((port + 1))
SlurmUser=$user
LogFile=$dir/log/slurmdbd
PidFile=$dir/run/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=root
StorageLoc=lab
EOF
        )
    fi
    # cred_expire: a requeued job is held until its credential expires (after 120 s by default).
    # DefMemPerCPU: without it, one job takes all memory of a node.
    # config_overrides: allows more CPUs and memory than the machine has.
    # SchedulerParameters: jobs start at once instead of every 3 s.
    cat > "$dir/slurm.conf" <<EOF
ClusterName=lab
SlurmctldHost=localhost
SlurmctldPort=$port
SlurmUser=$user
SlurmdUser=$user
$credentials
$accounting
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool/%n
SlurmctldPidFile=$dir/run/slurmctld.pid
SlurmdPidFile=$dir/run/slurmd-%n.pid
SlurmctldLogFile=$dir/log/slurmctld
SlurmdLogFile=$dir/log/slurmd-%n
MailProg=/bin/true
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
GresTypes=gpu
SlurmdParameters=config_overrides
SlurmctldParameters=preempt_send_user_signal
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=10000,bf_interval=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
ReturnToService=1
DefMemPerCPU=500
KillWait=5
MinJobAge=3600
MaxJobCount=20000
MaxArraySize=${LAB_MAX_ARRAY:-10001}
NodeName=node[1-$nodes] NodeHostname=localhost NodeAddr=127.0.0.1 Port=[$((port + 11))-$((port + 10 + nodes))] CPUs=32 RealMemory=64000 Gres=gpu:$gpus State=UNKNOWN
PartitionName=gpu Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
PartitionName=spare Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=10
EOF
    # a simulated GPU must be a character device: a link to /dev/null is one
    for ((i = 0; i < gpus; i++)); do ln -sf /dev/null "$dir/dev/gpu$i"; done
    echo "Name=gpu File=$dir/dev/gpu[0-$((gpus - 1))]" > "$dir/gres.conf"
    printf 'export SLURM_CONF=%q\n' "$dir/slurm.conf" > "$dir/env.sh"
}

start_all() {
    # a daemon that does not start writes the reason to its log, not to the terminal
    trap 'echo "lab.sh: line $LINENO failed: $BASH_COMMAND" >&2; tail -n 5 "$dir"/log/* >&2 || true' ERR
    local needed="sinfo slurmctld slurmd"
    [ "$auth" = munge ] && needed+=" munged"
    [ "$db" = 1 ] && needed+=" slurmdbd mariadbd"
    for command in $needed; do
        command -v "$command" >/dev/null || fail "$command is not installed; run slurm/lab.sh install"
    done
    mkdir -p "$dir"/{log,run,state,spool,dev,sock}
    chmod 755 "$dir" && chmod 711 "$dir/sock" && chmod 700 "$dir/state"
    write_config && . "$dir/env.sh"
    if [ "$auth" = munge ]; then
        [ -f "$dir/munge.key" ] || (umask 077; head -c 1024 /dev/urandom > "$dir/munge.key")
        munged --key-file="$dir/munge.key" --socket="$dir/sock/munge" --pid-file="$dir/run/munged.pid" \
            --log-file="$dir/log/munged" --seed-file="$dir/run/munge.seed"
    fi
    if [ "$db" = 1 ]; then
        [ -d "$dir/db/mysql" ] || mariadb-install-db --no-defaults --user="$user" --datadir="$dir/db" \
            --skip-test-db --auth-root-authentication-method=normal > "$dir/log/mariadb-install" 2>&1
        mariadbd --no-defaults --user="$user" --datadir="$dir/db" --socket="$dir/sock/mariadb" \
            --pid-file="$dir/run/mariadb.pid" --skip-networking --innodb-flush-log-at-trx-commit=0 \
            --innodb-lock-wait-timeout=900 --log-error="$dir/log/mariadb" </dev/null >/dev/null 2>&1 &
        wait_for 60 mariadb-admin --no-defaults -u root --socket="$dir/sock/mariadb" ping
        mariadb --no-defaults -u root --socket="$dir/sock/mariadb" -e 'create database if not exists lab'
        MYSQL_UNIX_PORT="$dir/sock/mariadb" slurmdbd
        wait_for 60 sacctmgr -n list cluster
        sacctmgr -n -i add cluster lab >/dev/null 2>&1 || true
    fi
    slurmctld
    wait_for 60 scontrol ping
    for ((i = 1; i <= nodes; i++)); do slurmd -N "node$i"; done
    wait_for 60 bash -c "[ \$(sinfo -h -N -p gpu -t idle -o %N | wc -l) = $nodes ]"
    if [ "$db" = 1 ]; then wait_for 60 sacct -a; fi
}

case $action in
start) start_all ;;
stop) stop_all ;;
*) usage ;;
esac

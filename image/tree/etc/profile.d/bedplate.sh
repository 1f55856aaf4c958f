# Why there is a shell, on the consoles that were the agent's.
if [ -n "${INVOCATION_ID:-}" ] && [ -r /run/motd.d/bedplate ]; then
    cat /run/motd.d/bedplate
fi
unset INVOCATION_ID JOURNAL_STREAM
export PAGER=less LESS=-FRX SYSTEMD_PAGER=cat
PS1='\h:\w\$ '

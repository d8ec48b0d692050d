#!/bin/sh
# An OCF agent whose monitor is lab-check: Pacemaker's way to look behind a unit that lives. Parameter: service.
mark=/run/lab-check-$OCF_RESKEY_service
good() { /usr/local/bin/lab-check "$OCF_RESKEY_service"; }
case $1 in
start)
    # The unit was started a moment ago.
    for _ in 1 2 3 4 5 6 7 8 9 10; do
        if good; then
            : >"$mark"
            exit 0
        fi
        sleep 0.2
    done
    exit 1
    ;;
stop) rm -f "$mark" ;;
monitor)
    [ -e "$mark" ] || exit 7
    good || exit 1
    ;;
validate-all) ;;
meta-data)
    cat <<END
<?xml version="1.0"?>
<resource-agent name="check" version="1.0">
<version>1.0</version>
<longdesc lang="en">Whether a service of the lab answers.</longdesc>
<shortdesc lang="en">lab check</shortdesc>
<parameters>
<parameter name="service" required="1"><longdesc lang="en">dns, radius, web or sip</longdesc>
<shortdesc lang="en">service</shortdesc><content type="string"/></parameter>
</parameters>
<actions>
<action name="start" timeout="20s"/><action name="stop" timeout="20s"/>
<action name="monitor" timeout="20s" interval="1s"/><action name="meta-data" timeout="5s"/>
<action name="validate-all" timeout="5s"/>
</actions>
</resource-agent>
END
    ;;
*) exit 3 ;;
esac
exit 0
